"""`farl publish FOLDER --repo_id OWNER/NAME`: a saved folder becomes a complete, checked Hub repository."""

import argparse

NAME, SUMMARY = "publish", "saved folder -> complete, checked repository on the Hub"
DESCRIPTION = """\
Assemble a complete repository from a saved folder, check it, and push it to the Hub.

Assembled are weights (safetensors), config, processor, tokenizer, the code for people
without this package (trust_remote_code), a card with measured scores, the evaluation and
example pictures; adapters stay adapters. Checked is that it loads and predicts in clean
processes with and without this package, that the card's metadata can be read and names
licence and base model, and that no file holds a secret, a path of this machine or your
user name.

Without --push nothing leaves this machine and no token is needed. Pushing needs
`hf auth login` or HF_TOKEN; a push that was cut is repeated by the same command.
"""
EXAMPLES = """\
examples:
  farl publish farl-lapa --repo_id me/farl-lapa                  # shows what would be uploaded
  farl publish farl-lapa --repo_id me/farl-lapa --push --private
  farl publish wflw-lora --repo_id me/wflw-lora --base_model me/farl-base --push --create_pr
  farl publish farl-lapa --repo_id me/farl-lapa --base_model me/farl-base \\
      --evaluation result.json --example strip.png --output folder-to-look-at
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="saved by save_pretrained, a training script or farl convert")
    parser.add_argument("--repo_id", required=True, help="name on the Hub: OWNER/NAME")
    parser.add_argument("--push", action="store_true", help="upload; without it only show what would be uploaded")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="branch to push to, made if it is missing (default: main)")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request in the place of a commit")
    parser.add_argument("--base_model", help="Hub name of the model this one was tuned from, or none")
    parser.add_argument("--base_folder", help="of an adapter: local copy of its base model, to try a prediction")
    parser.add_argument("--dataset", action="append", default=[], help="Hub name of training data (may be repeated)")
    parser.add_argument(
        "--evaluation", action="append", default=[], help="JSON of scripts/evaluate.py (may be repeated)"
    )
    parser.add_argument("--example", action="append", default=[], help="picture for the card (may be repeated)")
    parser.add_argument("--license", default="mit", help="of the weights, by its Hub name (default: %(default)s)")
    parser.add_argument(
        "--learnt_from",
        choices=("laion", "generated", "unknown"),
        help="what the card says of biases and data: official FaRL weights, generated faces alone, or neither",
    )
    parser.add_argument("--output", help="keep the assembled repository in this new folder")


def run(arguments: argparse.Namespace) -> int:
    from ..hub.publishing import publish
    from ..weights import model_folder

    publication = publish(
        model_folder(arguments.folder),
        arguments.repo_id,
        output=arguments.output,
        dry_run=not arguments.push,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        base_folder=arguments.base_folder,
        base_model=arguments.base_model,
        datasets=arguments.dataset,
        evaluations=arguments.evaluation,
        examples=arguments.example,
        license=arguments.license,
        learnt_from=arguments.learnt_from,
    )
    for name, size in publication.files.items():
        print(f"{size:>13,}  {name}")
    print(f"{sum(publication.files.values()):>13,}  bytes for {publication.repo_id}")
    for problem in publication.problems:
        print(f"problem: {problem}")
    if publication.problems:
        return 1
    if publication.url is None:
        print("In order. Nothing was uploaded: add --push.")
    else:
        print(f"Pushed: {publication.url}")
    return 0
