"""The model card of a bundle, in Hugging Face's form: YAML header, then what a user must know."""

from __future__ import annotations

from typing import Any

#: What the data sets' owners and the law say; not legal advice.
_DATA_NOTES = {
    "fer2013": "FER2013's licence claims conflict from one mirror to the next; the images are not shipped, only "
    "weights trained on them. Its labels are noisy: people agree with them for about 65 % of the images.",
    "rafdb": "RAF-DB is for non-commercial research and may not be redistributed.",
    "affectnet7": "AffectNet is for research and may not be redistributed.",
    "affectnet8": "AffectNet is for research and may not be redistributed.",
}

_NOTICE = """## Use and limits

The output is an *apparent* expression, as the annotators of one data set named it. It is not a
person's feeling, intention or state of mind, and must not be used as one.

- **EU AI Act:** inferring emotions at the workplace and in education is prohibited
  (Regulation (EU) 2024/1689, Art. 5(1)(f), since 2 February 2025). Where such a system is allowed, the
  people exposed to it must be told (Art. 50(3)). This is information, not legal advice.
- No person is identified and nothing is stored unless asked for.
- Faces turned far away, covered, very small or badly lit are classified worse than the figures here
  say. Balance across age, gender and skin tone was **not measured**.
"""


def model_card(
    name: str, classes: tuple[str, ...], dataset: str, training: dict[str, Any], facts: dict[str, str]
) -> str:
    """Text of ``MODEL_CARD.md``.

    Args:
        name: of the model.
        classes: ordered class names.
        dataset: key of the conventions, such as "fer2013".
        training: what the training recorded; empty for converted checkpoints.
        facts: rows of the first table, name -> value.
    """
    parts = [_header(name, dataset, training), f"# {name}\n", _table(["", ""], [[k, v] for k, v in facts.items()])]
    parts.append(f"Classes, in output order: {', '.join(classes)}.\n")
    if training:
        parts.append(_training(training))
    if dataset in _DATA_NOTES:
        parts.append(f"**Data.** {_DATA_NOTES[dataset]}\n")
    parts += [_landmarks(dataset, training), _NOTICE]
    return "\n".join(p for p in parts if p)


def _landmarks(dataset: str, training: dict[str, Any]) -> str:
    """Where a landmark stream comes from; nothing where the network has none or the run left it untrained."""
    began = any(k in training for k in ("init", "transfer", "landmark_weights"))
    if training.get("landmarks"):
        text = "The landmark stream was pre-trained on 68 points a face, then held still."
    elif "landmark_recipe" in training and began:
        text = "The landmark stream, trained on 68 points a face, came with the weights that the run began from."
    else:
        return ""
    if dataset == "fer2013":
        text += (
            " The points that this project has for FER2013 are pseudo-landmarks, made with MediaPipe's Face Mesh "
            "(Apache-2.0 according to several mirrors and MIT according to the wheel it came in; its own model card "
            "was not read). They compress wide-open mouths and fail on profiles."
        )
    return f"**Landmarks.** {text}\n"


def _origin(training: dict[str, Any]) -> str:
    """Other networks that a run learned from: those that it began from, and its teachers."""
    files = ("init", "transfer", "trunk", "image_weights", "landmark_weights")
    names = [training[k] for k in files if k in training]
    sentences = [f"The run began from {', '.join(names)}."] if names else []
    if teachers := training.get("teachers"):
        share = training["recipe"]["teacher_weight"]
        sentences.append(f"Its targets were to {share:.0%} the opinion of trained networks: {', '.join(teachers)}.")
    if sentences:
        sentences.append("Where those were selected on the same validation split, the figures are the more optimistic.")
    return " ".join(sentences) + "\n" if sentences else ""


def _header(name: str, dataset: str, training: dict[str, Any]) -> str:
    lines = ["---", "license: apache-2.0", "library_name: poster-edge", "pipeline_tag: image-classification"]
    lines += ["tags:", "- facial-expression-recognition", "- onnx"]
    if dataset:
        lines += ["datasets:", f"- {dataset}"]
    if training:
        lines += [
            "model-index:",
            f"- name: {name}",
            "  results:",
            "  - task: {type: image-classification}",
            f"    dataset: {{name: {dataset} validation split, type: {dataset}}}",
            f"    metrics: [{{type: accuracy, value: {training['validation']['accuracy']:.4f}}}]",
        ]
    return "\n".join([*lines, "---", ""])


def _training(training: dict[str, Any]) -> str:
    whole, alone = training["validation"], training["validation_without_twins"]
    figures = [
        ["accuracy", f"{whole['accuracy']:.2%}", f"{alone['accuracy']:.2%}"],
        ["macro F1", f"{whole['macro_f1']:.4f}", f"{alone['macro_f1']:.4f}"],
        ["mean class accuracy", f"{whole['mean_class_accuracy']:.2%}", f"{alone['mean_class_accuracy']:.2%}"],
        ["expected calibration error", f"{whole['ece']:.4f}", f"{alone['ece']:.4f}"],
    ]
    recall = [
        [name, "-" if value is None else f"{value:.1%}", str(sum(row))]
        for (name, value), row in zip(whole["recall"].items(), whole["confusion"], strict=True)
    ]
    columns = ["", f"validation ({whole['count']})", f"without twins ({alone['count']})"]
    return "\n".join(
        [
            "## Training and figures\n",
            f"Trained on {training['train_images']:,} images of {training['data']}; images whose pixels equal a "
            f"validation image's ({training['validation_twins']} validation images have such a twin) were dropped. "
            f"The validation split selected the epoch ({training['epoch']} of {training['recipe']['epochs']}) and the "
            f"temperature ({training['temperature']:.3f}), so these figures are slightly optimistic."
            f"{_rounded(training)}\n",
            *filter(None, [_origin(training)]),
            _table(columns, figures),
            _table(["class", "recall", "images"], recall),
        ]
    )


def _rounded(training: dict[str, Any]) -> str:
    kind = training.get("rounded_to")
    return f" They are of the weights before these were rounded to {kind.upper()}." if kind else ""


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
