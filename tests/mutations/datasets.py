"""Mistakes in the readers of official layouts and of own data, in label maps and in flip tables."""

from . import Mutation

CELEBAMASK_HQ = "farl_hf/datasets/celebamask_hq.py"
FLIPS = "farl_hf/datasets/flips.py"
LABEL_MAPS = "farl_hf/datasets/label_maps.py"
OWN_DATA = "farl_hf/datasets/own_data.py"
OWN_FILES = "farl_hf/datasets/own_files.py"

LAYOUTS = ("tests/datasets/test_datasets.py",)
OWN = ("tests/datasets/test_own_data.py",)

MUTATIONS = [
    Mutation("farl_hf/datasets/ibug300w.py", "SHIFT = 2.0", "SHIFT = 0.0", LAYOUTS),
    Mutation("farl_hf/datasets/lapa.py", "[104, 105, 54, 84, 90]", "[105, 104, 54, 84, 90]", LAYOUTS),
    Mutation(
        "farl_hf/datasets/files.py",
        "half = points[0].tolist(), 100 * scale",
        "half = points[0].tolist(), 125 * scale",
        LAYOUTS,
    ),
    Mutation(
        "farl_hf/datasets/aflw19.py",
        "left, right, top, bottom = boxes[i].tolist()",
        "left, top, right, bottom = boxes[i].tolist()",
        LAYOUTS,
    ),
    Mutation("farl_hf/datasets/aflw19.py", "(visible[i] == 1).all()", "(visible[i] == 1).any()", LAYOUTS),
    Mutation(CELEBAMASK_HQ, 'key=lambda entry: entry["label"])', 'key=lambda entry: -entry["label"])', LAYOUTS),
    Mutation(
        CELEBAMASK_HQ,
        "for file, part in partition.items() if",
        "for file, part in reversed(partition.items()) if",
        LAYOUTS,
    ),
    Mutation("farl_hf/datasets/celeba.py", '(value == "1" for value', '(value != "1" for value', LAYOUTS),
    Mutation(OWN_FILES, "reshape(count, 2) - 1", "reshape(count, 2)", OWN),
    Mutation(OWN_FILES, "(x, y, x + width, y + height)", "(x, y, width, height)", OWN),
    Mutation(OWN_FILES, "if (keypoints[:, 2] == 0).any():", "if False:", OWN),
    Mutation(OWN_FILES, '"-1": False', '"-1": True', OWN),
    Mutation(LABEL_MAPS, "return labels.astype(np.uint8)", "return labels.astype(np.uint8) * 255", OWN),
    Mutation(
        LABEL_MAPS,
        "found = order[np.searchsorted(",
        "found = (order * 0 + np.arange(len(order)))[np.searchsorted(",
        OWN,
    ),
    Mutation(OWN_DATA, "if len(face.landmarks) != usual:", "if False:", OWN),
    Mutation(FLIPS, "(11, [(2, 3), (4, 5)])", "(11, [(2, 3)])", OWN),
    Mutation(
        FLIPS, "            return flip_permutation(layout)\n", "            return list(range(len(names)))\n", OWN
    ),
]
