"""A survey as one HTML file that needs no other: thumbnails in their buckets, crops, duplicates, captions."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from lora_training import printable
from lora_training.dataset import captions
from lora_training.dataset.survey import Dataset, Fault, Sample, Survey
from lora_training.preflight import images

_SIDE = 112  # pixels of a thumbnail
_MOST = 60  # thumbnails of a bucket or a fault
_TAGS = 60
_PAIRED = ("duplicate", "near-duplicate")
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd } table { border-collapse: collapse }
td, th { padding: .2rem .9rem .2rem 0; text-align: left } td.n { text-align: right }
.error { color: #b00020 } .warning { color: #8a5a00 } .row { display: flex; flex-wrap: wrap; gap: .7rem }
figure { margin: 0; width: 8rem; font-size: 12px; overflow-wrap: anywhere }
.pair { background: #f5f5f5; padding: .5rem }
figure div { position: relative; display: inline-block; line-height: 0; background: #eee }
figure i { position: absolute; border: 2px solid #e0218a; box-sizing: border-box }
"""


def html(survey: Survey, title: str) -> Iterator[str]:
    """Yield the parts of the document. A picture is opened when its part is asked for."""
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title><style>{_STYLE}</style>'
    yield f"<h1>{_text(title)}</h1>"
    used = sum(sample.repeats for sample in survey.samples)
    yield f"<p>{counted(survey.samples, used)}; {survey.steps} steps an epoch.</p>"
    yield from _faults(survey)
    for dataset in survey.datasets:
        yield from _buckets(dataset)
    yield from _captions(survey)
    yield "</html>\n"


def counted(samples: Sequence[Sample], used: int) -> str:
    """Return the number of images, of broken ones, and of those that an epoch uses with their repeats, in words."""
    broken = sum(sample.picture.wrong is not None for sample in samples)
    return f"{len(samples)} images{f' ({broken} broken)' if broken else ''}, {used} an epoch with repeats"


def _faults(survey: Survey) -> Iterator[str]:
    samples = {sample.path: sample for sample in survey.samples}
    yield "<h2>Findings</h2>" if survey.faults else "<p>Nothing doubtful was found.</p>"
    for fault in survey.faults:
        yield f'<h3 class="{fault.severity}">{_text(fault.text)}: {len(fault.images)}</h3>'
        frame = "row pair" if fault.code in _PAIRED else "row"
        yield f'<div class="{frame}">'
        yield from _figures([samples[path] for path in fault.images if path in samples], fault)
        others = [f"{path} {detail}" for path, detail in fault.images.items() if path not in samples]
        yield from (f"<p>{_text(each)}</p>" for each in others[:_MOST])
        yield "</div>"


def _figures(samples: list[Sample], fault: Fault | None = None) -> Iterator[str]:
    for sample in samples[:_MOST]:
        detail = fault.images[sample.path] if fault else f"{sample.size}, {sample.repeats} times"
        yield f"<figure>{_thumbnail(sample)}<br>{_text(Path(sample.path).name)}<br>{_text(detail)}</figure>"
    if len(samples) > _MOST:
        yield f"<p>and {len(samples) - _MOST} more</p>"


def _buckets(dataset: Dataset) -> Iterator[str]:
    width, height = dataset.filled.rule.resolution
    yield f"<h2>Buckets of {width}x{height}</h2><p>The frame in each picture is the part that is trained on.</p>"
    for size, count in dataset.filled.counts.items():
        inside = [sample for sample in dataset.samples if sample.place and sample.place.bucket == size]
        yield f'<h3>{size[0]}x{size[1]}: {len(inside)} images, {count} with repeats</h3><div class="row">'
        yield from _figures(inside)
        yield "</div>"


def _thumbnail(sample: Sample) -> str:
    """Return the picture, with a frame around the part that is trained on."""
    data = _jpeg(sample.path) if sample.picture.wrong is None else None
    if data is None:
        return "<div>no picture</div>"
    frame = ""
    if sample.place and all(sample.place.resized):
        (left, right), (top, bottom) = sample.place.crop()
        frame = f'<i style="inset:{top:.2%} {right:.2%} {bottom:.2%} {left:.2%}"></i>'
    return f'<div><img alt="" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">{frame}</div>'


def _jpeg(path: str) -> bytes | None:
    from PIL import Image

    made = io.BytesIO()
    try:
        with Image.open(path, formats=images.formats()) as image:
            image.draft("RGB", (_SIDE, _SIDE))
            image.thumbnail((_SIDE, _SIDE))
            image.convert("RGB").save(made, "JPEG", quality=70)
    except (OSError, ValueError, SyntaxError):  # it has changed since the survey
        return None
    return made.getvalue()


def _captions(survey: Survey) -> Iterator[str]:
    texts = [sample.caption.text for sample in survey.samples if sample.caption.text]
    if not texts:
        return
    counts = captions.frequency(texts)
    yield f"<h2>Captions</h2><p>{len(texts)} captions, {len(counts)} different tags.</p><table>"
    yield from _rows(counts.most_common(_TAGS))
    yield "</table>"
    yield "<h3>The longest</h3><table>"
    by_tokens = sorted(survey.samples, key=lambda each: each.tokens or len(each.caption.text), reverse=True)
    yield from _rows((each.caption.text, f"{each.tokens} tokens" if each.tokens else "") for each in by_tokens[:5])
    yield "</table>"


def _rows(rows: Iterable[tuple[object, object]]) -> Iterator[str]:
    yield from (f'<tr><td>{_text(one)}</td><td class="n">{_text(other)}</td></tr>' for one, other in rows)


def _text(value: object) -> str:
    return escape(printable.line(str(value)))
