"""One window in which pictures are looked at, one after the other."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from pytest_onnxdet.commands.common import display, warn
from pytest_onnxdet.commands.pictures import Picture


class Window:
    """Shows pictures until it is closed; of what cannot be shown it is said once.

    Each picture stays until a key is pressed, as MMDetection's tool waits for its windows: a run
    over 5,000 images opens one window, not 5,000. Use as a context manager.

    Attributes:
        open: whether there is something to show pictures in.
    """

    def __init__(self, *, asked: bool) -> None:
        self.open = asked
        self._plot: Any = None
        self._figure: Any = None

    def __enter__(self) -> Self:
        if not self.open:
            return self
        self.open = display()
        if self.open:
            import matplotlib
            from matplotlib import pyplot

            self._plot = pyplot
            backend = str(matplotlib.get_backend())
            self.open = backend.lower() in {name.lower() for name in _interactive(matplotlib)}
            why = f"matplotlib's {backend} opens no windows: install PyQt5 or tkinter"
        else:
            why = "there is no display"
        if not self.open:
            warn(f"{why}: images are not shown in a window")
        return self

    def show(self, picture: Picture, title: str) -> None:
        """Shows a picture, uint8 (H, W, 3), BGR, and waits for a key or a click."""
        if not self.open:
            return
        if self._figure is None:
            self._figure = self._plot.figure()
            canvas = self._figure.canvas
            canvas.mpl_connect("close_event", lambda _: canvas.stop_event_loop())
        self._figure.clear()
        axes = self._figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(picture[..., ::-1])
        self._figure.canvas.manager.set_window_title(
            f"{title} - any key: go on, close: show no more"
        )
        self._figure.waitforbuttonpress()
        self.open = self._plot.fignum_exists(self._figure.number)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._figure is not None:
            self._plot.close(self._figure)


def _interactive(matplotlib: Any) -> list[str]:
    """The back ends that open windows."""
    try:
        from matplotlib.backends import BackendFilter, backend_registry
    except ImportError:  # before matplotlib 3.9
        return list(matplotlib.rcsetup.interactive_bk)
    return list(backend_registry.list_builtin(BackendFilter.INTERACTIVE))
