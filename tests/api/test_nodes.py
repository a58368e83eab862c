"""Works and nodes."""
import iowq

def test_x() -> None:
    assert iowq.topology().nodes
