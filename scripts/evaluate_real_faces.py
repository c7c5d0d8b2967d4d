"""
Scores the package's small weights, or a folder of other ones, on two public sets of real photos that they never saw.

Fetch the sets yourself; nothing of them is stored or shown:

    git clone https://github.com/udacity/P1_Facial_Keypoints
    git clone https://github.com/massimomauro/FASSEG-repository
    python scripts/evaluate_real_faces.py --keypoints P1_Facial_Keypoints --fasseg FASSEG-repository

Choose nothing by these numbers: whoever looks often enough fits them. Say how often you looked.
"""

import argparse
import json
from pathlib import Path

import torch
from experiments.real_faces import score_fasseg, score_keypoints

import farl_hf
from farl_hf import FaRLFaceImageProcessor, FaRLForFaceAlignment, FaRLForFaceParsing


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keypoints", type=Path, help="checkout of udacity/P1_Facial_Keypoints: 68 points, NME")
    parser.add_argument("--fasseg", type=Path, help="checkout of massimomauro/FASSEG-repository: six classes, F1")
    parser.add_argument("--alignment_model", help="folder with 68 landmarks; the package's own by default")
    parser.add_argument("--parsing_model", help="folder with CelebAMask-HQ's classes; the package's own by default")
    parser.add_argument("--flip", action="store_true", help="average with the answers for the mirror images")
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    options = parser.parse_args(arguments)
    if options.keypoints is None and options.fasseg is None:
        parser.error("name a checkout: --keypoints, --fasseg or both.")
    scores = {}
    if options.keypoints is not None:
        folder = options.alignment_model or farl_hf.pretrained("farl-tiny-alignment")
        scale = FaRLFaceImageProcessor.from_pretrained(folder).target_face_scale
        model = FaRLForFaceAlignment.from_pretrained(folder, dtype=torch.float32).eval()
        scores["keypoints"] = score_keypoints(model, options.keypoints, scale, options.flip)
    if options.fasseg is not None:
        folder = options.parsing_model or farl_hf.pretrained("farl-tiny-parsing-celebamask-hq")
        model = FaRLForFaceParsing.from_pretrained(folder, dtype=torch.float32).eval()
        processor = FaRLFaceImageProcessor.from_pretrained(folder)
        for version in ("V2", "V3"):
            scores[f"fasseg_{version}"] = score_fasseg(model, processor, options.fasseg, version, options.flip)
    text = json.dumps(scores, indent=2)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
