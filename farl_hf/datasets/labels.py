"""
Names of what the models predict, in plain words, with the *subject's own* left and right.

The original code and facer name the sides of the same class ids differently: FaRL calls LaPa's class 2 `lb`, facer
`rb`. Here class 2 of LaPa and class 6 of CelebAMask-HQ are the eyebrow on the image's left side of an upright face,
which is the subject's right one. The short names of both are kept beside ours.
"""

# id: (ours, FaRL's `scorers/lapa.yaml`, facer's `face_parsing/farl.py`)
_LAPA = [
    ("background", "background", "background"),
    ("skin", "face_lr_rr", "face"),
    ("right eyebrow", "lb", "rb"),
    ("left eyebrow", "rb", "lb"),
    ("right eye", "le", "re"),
    ("left eye", "re", "le"),
    ("nose", "nose", "nose"),
    ("upper lip", "ul", "ulip"),
    ("inner mouth", "im", "imouth"),
    ("lower lip", "ll", "llip"),
    ("hair", "hair", "hair"),
]
# id: (ours, FaRL's `scorers/celebm.yaml`, facer's)
_CELEBAMASK_HQ = [
    ("background", "background", "background"),
    ("neck", "neck", "neck"),
    ("skin", "face", "face"),
    ("clothes", "cloth", "cloth"),
    ("right ear", "rr", "rr"),
    ("left ear", "lr", "lr"),
    ("right eyebrow", "rb", "rb"),
    ("left eyebrow", "lb", "lb"),
    ("right eye", "re", "re"),
    ("left eye", "le", "le"),
    ("nose", "nose", "nose"),
    ("inner mouth", "imouth", "imouth"),
    ("lower lip", "llip", "llip"),
    ("upper lip", "ulip", "ulip"),
    ("hair", "hair", "hair"),
    ("eyeglasses", "glass", "eyeg"),
    ("hat", "hat", "hat"),
    ("earring", "earr", "earr"),
    ("necklace", "neckl", "neck_l"),
]

LAPA_LABELS, LAPA_FARL_NAMES, LAPA_FACER_NAMES = (list(names) for names in zip(*_LAPA, strict=True))
CELEBAMASK_HQ_LABELS, CELEBAMASK_HQ_FARL_NAMES, CELEBAMASK_HQ_FACER_NAMES = (
    list(names) for names in zip(*_CELEBAMASK_HQ, strict=True)
)

# The 40 attributes in the order of CelebA's `list_attr_celeba.txt`.
CELEBA_ATTRIBUTES = (  # noqa: SIM905
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
).split()
