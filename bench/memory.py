"""Peak memory of full-batch training: each peer trains a few steps in a new process, which reports its memory."""

from collections.abc import Sequence

from bench.cases import TIMED
from bench.rows import Writer
from bench.run import Opened, Say, entries, label, leave_out
from bench.session import PeerError

TITLE = "peak memory, full batch of 60,000"


def measure(modules: Sequence[str], open_peer: Opened, out: Writer, say: Say) -> None:
    say(f"memory: {TITLE}")
    for module, device, about in entries(modules, "setup", open_peer):
        name = label(module, device)
        try:
            if isinstance(about, str):
                raise PeerError(about)
            with open_peer(module, device) as peer:
                found = peer.ask("memory", TIMED["full"])
        except PeerError as error:
            leave_out("memory", TITLE, name, "skipped", str(error), out, say)
            continue
        say(f"  {name:24} {found['peak'] / 1e6:10.0f} MB at peak, {found['before'] / 1e6:.0f} MB before training")
        out.add(
            case="memory",
            title=TITLE,
            peer=name,
            peer_title=about["title"],
            device=device,
            peak_bytes=found["peak"],
            before_bytes=found["before"],
            versions=about["versions"],
        )
