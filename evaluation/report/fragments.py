"""Links to a view of the report's image browser."""

from urllib.parse import urlencode

IMAGES = "images"


def images_of(**wanted: str) -> str:
    """The fragment that shows the images of some source, or those that a detector gets wrong.

    Args:
        wanted: Values of the browser's controls by name (see `page/browser.js`): `detector`, `source` (`dataset/generator`), `answer`
            (`right`, `wrong`, `missed`, `alarm`), `image` (`dataset/key@perturbation`) and so on.
    """
    return f"#{IMAGES}?{urlencode(wanted)}"
