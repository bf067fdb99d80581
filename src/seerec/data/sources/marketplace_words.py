"""The vocabulary of the simulated marketplace: departments, intents, brands, finishes and off-topic searches.

An intent is ``attribute | product phrase``. Both are in the title of each of its items, and queries use nothing else;
brands and finishes tell the items of an intent apart and are never searched for.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

QUERIES_PER_INTENT = 4

INTENTS = {
    "electronics": (
        "wireless | noise cancelling headphones",
        "wide angle | phone camera lens",
        "mechanical | gaming keyboard",
        "portable | bluetooth speaker",
        "fast charging | power bank",
        "curved | computer monitor",
    ),
    "kitchen": (
        "cast iron | frying pan",
        "burr | coffee grinder",
        "insulated | water bottle",
        "professional | chef knife",
        "countertop | stand mixer",
        "airtight | food storage containers",
    ),
    "garden": (
        "cordless | hedge trimmer",
        "self watering | flower pots",
        "solar | pathway lights",
        "hanging | bird feeder",
        "expandable | garden hose",
        "charcoal | barbecue grill",
    ),
    "sports": (
        "cushioned | running shoes",
        "non slip | yoga mat",
        "adjustable | dumbbell set",
        "lightweight | camping tent",
        "graphite | tennis racket",
        "ventilated | bicycle helmet",
    ),
    "toys": (
        "wooden | train set",
        "cooperative | board game",
        "remote control | racing car",
        "soft | teddy bear",
        "magnetic | building tiles",
        "watercolor | paint kit",
    ),
    "fashion": (
        "slim | leather wallet",
        "waterproof | hiking jacket",
        "polarized | sunglasses",
        "merino | wool sweater",
        "automatic | wrist watch",
        "canvas | tote bag",
    ),
    "home": (
        "memory foam | pillow",
        "blackout | window curtains",
        "robot | vacuum cleaner",
        "dimmable | desk lamp",
        "scented | soy candle",
        "woven | area rug",
    ),
    "pets": (
        "orthopedic | dog bed",
        "tall | cat tree",
        "reflective | dog harness",
        "submersible | aquarium filter",
        "interactive | cat toy",
        "grain free | puppy food",
    ),
}

BRANDS = {
    "electronics": ("Sonara", "Voltiq", "Kestrel", "Nuvik", "Ampera", "Lumitek", "Orbix", "Halden"),
    "kitchen": ("Bramley", "Cucino", "Forgewell", "Pantria", "Saltmere", "Tavola", "Oakhearth", "Mirepo"),
    "garden": ("Greenfold", "Thornby", "Verdano", "Mossgate", "Larkspur", "Rootwell", "Fernley", "Solbloom"),
    "sports": ("Stridex", "Ridgeway", "Velora", "Apexon", "Kinetra", "Summitry", "Tempra", "Boldrun"),
    "toys": ("Pipkin", "Wobbly", "Tinkerly", "Jollo", "Bumbling", "Merriment", "Kidlo", "Puzzlewick"),
    "fashion": ("Aldenne", "Corvella", "Fairholm", "Maristo", "Norvane", "Belcourt", "Ostrava", "Lindquist"),
    "home": ("Casavia", "Dormire", "Nestwell", "Hygga", "Lumora", "Quillon", "Softfield", "Arborly"),
    "pets": ("Pawsley", "Whiskrs", "Barkwell", "Furlan", "Tailby", "Purrford", "Houndly", "Finnigan"),
}

FINISHES = (
    "midnight blue",
    "slate grey",
    "forest green",
    "ivory white",
    "cherry red",
    "sand beige",
    "jet black",
    "sunset orange",
    "lavender",
    "copper",
    "turquoise",
    "mustard yellow",
)

OFF_TOPIC = {
    "visa apply": ("Visa application guide", "Visa photo service"),
    "weather tomorrow": ("Seven day forecast", "Rain radar"),
    "train tickets": ("Railway timetable", "Railcard renewal"),
    "exchange rate": ("Currency converter", "Currency alerts"),
    "football results": ("League table", "Match highlights"),
    "translate english spanish": ("Online dictionary", "Phrasebook"),
    "tax return deadline": ("Tax calculator", "Tax forms"),
    "cinema near me": ("Film listings", "Cinema vouchers"),
    "election news": ("Newspaper front page", "Election results map"),
    "driving licence renewal": ("Licence renewal form", "Theory test practice"),
    "flight status": ("Flight tracker", "Airport arrivals"),
    "doctor appointment": ("Surgery opening hours", "Vaccination booking"),
    "apartment rent": ("Flats to let", "Tenancy agreement"),
    "job vacancies": ("Vacancy listings", "Curriculum vitae template"),
    "parcel tracking": ("Parcel tracker", "Post office finder"),
    "lottery numbers": ("Lottery draw archive", "Lottery results"),
    "horoscope today": ("Daily horoscope", "Moon calendar"),
    "internet banking login": ("Bank branch finder", "Savings rates"),
    "pancake recipe": ("Recipe collection", "Baking video"),
    "route planner": ("Road map", "Traffic news"),
}


def names(prefix: str, count: int) -> NDArray[np.str_]:
    """``count`` ids of equal length: the prefix and a number."""
    return np.char.mod(f"{prefix}%0{len(str(count - 1))}d", np.arange(count))


def item_table(per_intent: int, rng: np.random.Generator) -> pa.Table:
    """Items by index: ``per_intent`` (at most 96) of each intent, then two of each off-topic search."""
    titles, brands, departments = [], [], []
    for department, intents in INTENTS.items():
        for attribute, phrase in (intent.split(" | ") for intent in intents):
            for code in rng.permutation(len(BRANDS[department]) * len(FINISHES))[:per_intent]:
                brand, finish = BRANDS[department][code // len(FINISHES)], FINISHES[code % len(FINISHES)]
                titles.append(f"{brand} {attribute} {phrase}, {finish}")
                brands.append(brand)
                departments.append(department)
    off_topic = [title for pair in OFF_TOPIC.values() for title in pair]
    return pa.table(
        {
            "item_id": names("i", len(titles) + len(off_topic)),
            "title": titles + off_topic,
            "brand": pa.array(brands + [None] * len(off_topic)),
            "category": departments + ["services"] * len(off_topic),
        }
    )


def query_texts() -> list[str]:
    """Queries by index: four of each intent, then the off-topic ones."""
    texts = []
    for attribute, phrase in (intent.split(" | ") for intents in INTENTS.values() for intent in intents):
        head = phrase.split()[-1]
        texts += [phrase, f"{attribute} {head}", f"{attribute} {phrase}", f"{phrase} {attribute}"]
    return texts + list(OFF_TOPIC)
