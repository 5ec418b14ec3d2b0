"""Pascal VOC: one XML file for each picture.

Everything is looked up by its tag, never by its place. Outlines are read and written as MVI has them in its exported
data sets (``segment_polygons``), since Pascal VOC itself has none. No library knows those.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, ParseError, SubElement, indent, tostring

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from image_sync.annotations.checks import (
    RIGHT_FILE,
    SOMETHING_ELSE,
    AnnotationError,
    Draft,
    Fault,
    Point,
    around,
    number_in,
    shown,
)
from image_sync.domain import Annotation, Box

_MOST_TAGS = 500_000
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_SAVE_AGAIN = "Save it again with the labelling tool, or restore it from a copy."
_YES = frozenset({"1", "true", "yes"})


def read(data: bytes, draft: Draft, *, one_based: bool = False) -> Annotation:
    """What the file says.

    Swapped corners are put in order: both are known, so what was drawn is certain.

    Args:
        one_based: the first pixel is 1 and the last one belongs to the box, as in the original Pascal VOC data; most
            tools (labelImg, MVI) write plain coordinates.

    Raises:
        AnnotationError: it cannot be used.
    """
    root = _parsed(data, draft.path)
    if root.tag != "annotation":
        text = "its outermost element is not <annotation>, so it is not a Pascal VOC file"
        raise AnnotationError(draft.path, Fault(text, SOMETHING_ELSE))
    size = root.find("size")
    if size is not None:
        draft.size(number_in(size.findtext("width")), number_in(size.findtext("height")))
    for number, element in enumerate(root.findall("object"), 1):
        _object(element, f"object {number}", draft, one_based=one_based)
    return draft.finish()


def write(annotation: Annotation, name: str, *, one_based: bool = False) -> bytes:
    """The file for the picture of this name."""
    root = Element("annotation")
    SubElement(root, "filename").text = name
    size = SubElement(root, "size")
    for tag, value in (("width", annotation.width), ("height", annotation.height), ("depth", 3)):
        SubElement(size, tag).text = str(value)
    for box in annotation.boxes:
        root.append(_element(box, 1 if one_based else 0))
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _parsed(data: bytes, path: bytes) -> Element:
    # "<" is what every tag begins with in every encoding: a bound on the memory that the tree takes.
    if data.count(b"<") > _MOST_TAGS:
        raise AnnotationError(path, Fault(f"it has more than {_MOST_TAGS:,} tags", RIGHT_FILE))
    try:
        return fromstring(data, forbid_dtd=True)
    except DefusedXmlException:
        hint = "Remove the lines that begin with <!DOCTYPE or <!ENTITY."
        raise AnnotationError(path, Fault("it declares a document type, which may be an attack", hint)) from None
    except ParseError as error:
        line = error.position[0]
        raise AnnotationError(path, Fault(f"it is not a complete XML document (line {line})", _SAVE_AGAIN)) from None
    except (ValueError, LookupError):  # an encoding that is not known or not supported
        hint = "Save it again as UTF-8."
        raise AnnotationError(path, Fault("it is written in an encoding that cannot be read", hint)) from None


def _object(element: Element, where: str, draft: Draft, *, one_based: bool) -> None:
    label = element.findtext("name")
    shift = 1.0 if one_based else 0.0
    polygon = _polygon(element, where, draft, shift)
    if polygon is None:
        return
    boxes = element.findall("bndbox")
    if len(boxes) > 1 or not (boxes or polygon):
        many = f"has {len(boxes)} boxes" if boxes else "has no <bndbox>"
        draft.refuse(f"{where} {many}", "Draw one box for each object; turned boxes and points cannot be used.")
        return
    if boxes:
        sides = {side: number_in(boxes[0].findtext(side)) for side in _SIDES}
        known = [value for value in sides.values() if value is not None]
        if len(known) < len(_SIDES):
            missing = ", ".join(side for side, value in sides.items() if value is None)
            text = f"{where}: {missing} of its <bndbox> is not a number"
            draft.refuse(text, "Write a number, or draw the box again.")
            return
        xmin, ymin, xmax, ymax = known
        corners = (min(xmin, xmax) - shift, min(ymin, ymax) - shift, max(xmin, xmax), max(ymin, ymax))
    else:
        corners = around(polygon)
    difficult = (element.findtext("difficult") or "").strip().lower() in _YES
    draft.object(where, label, corners, polygon, difficult=difficult)


def _polygon(element: Element, where: str, draft: Draft, shift: float) -> list[Point] | None:
    """The object's outline; empty when it has none or several (then only the box is certain), None when refused."""
    polygons = element.findall("segment_polygons/polygon")
    if len(polygons) != 1:
        return []
    points: list[Point] = []
    for point in polygons[0].findall("point"):
        values = [number_in(value.text) for value in point.findall("value")]
        known = [value - shift for value in values if value is not None]
        if len(values) != 2 or len(known) != 2:  # noqa: PLR2004 - x and y
            draft.refuse(f"{where}: a corner of its outline is not two numbers", "Draw the outline again.")
            return None
        points.append((known[0], known[1]))
    return points


def _element(box: Box, shift: int) -> Element:
    element = Element("object")
    SubElement(element, "name").text = box.label
    SubElement(element, "difficult").text = str(int(box.difficult))
    bndbox = SubElement(element, "bndbox")
    # Counted from 1, the last pixel belongs to the box: its number is where a box counted from 0 ends.
    values = (box.left + shift, box.top + shift, box.right, box.bottom)
    for side, value in zip(_SIDES, values, strict=True):
        SubElement(bndbox, side).text = shown(value)
    if box.polygon:
        polygon = SubElement(SubElement(element, "segment_polygons"), "polygon")
        for corner in box.polygon:
            point = SubElement(polygon, "point")
            for value in corner:
                SubElement(point, "value").text = shown(value + shift)
    return element
