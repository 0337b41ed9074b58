"""`fcgpu bench`: this machine's CPU against its GPU, and how near each comes to the limits of its hardware."""

import json
from argparse import Namespace
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from fcgpu.backend import Backend, choose
from fcgpu.bench import Limits, Throughput, measure
from fcgpu.cli import INTERRUPTED
from fcgpu.errors import DeviceError
from fcgpu.streams import say, show
from fcgpu.version import __version__


def bench(args: Namespace) -> int:
    backends, missing = _devices(args.device)
    limits: list[Limits] = []
    found: list[Throughput] = []
    code = 0
    try:
        with Console(stderr=True).status("measuring") as status:
            for result in measure(backends, seconds=args.seconds, threads=args.threads):
                if isinstance(result, Limits):
                    limits.append(result)
                else:
                    found.append(result)
                    status.update(f"measured {result.backend.device}, {_network(result)}, batch {_batch(result)}")
    except KeyboardInterrupt:  # show what was measured so far
        say("fcgpu: stopped; what was measured until then:")
        code = INTERRUPTED
    if args.json:
        print(json.dumps({"fcgpu_version": __version__, "limits": _limits(limits), "rows": _rows(found)}))
    else:
        _show(limits, found, missing)
    return code


def _devices(device: str) -> tuple[list[Backend], str]:
    """(backends, why the GPU is missing or ""): the CPU and the GPU for "auto", else only `device`."""
    if device != "auto":
        return [choose(device)], ""
    try:
        return [choose("cpu"), choose("cuda")], ""
    except DeviceError as error:
        return [choose("cpu")], str(error)


def _limits(limits: list[Limits]) -> list[dict[str, Any]]:
    return [
        {
            "device": limit.backend.device,
            "hardware": limit.backend.hardware,
            "product_flops": limit.flops,
            "pixel_product_flops": limit.pixel_flops,
            "copy_bytes_per_second": limit.bandwidth,
        }
        for limit in limits
    ]


def _rows(found: list[Throughput]) -> list[dict[str, Any]]:
    return [
        {
            "device": row.backend.device,
            "sizes": list(row.sizes),
            "batch": row.batch,
            "samples": row.samples,
            "seconds": row.seconds,
            "samples_per_second": row.samples_per_second,
            "compute_share": row.compute_share,
            "memory_share": row.memory_share,
        }
        for row in found
    ]


def _show(limits: list[Limits], found: list[Throughput], missing: str) -> None:
    for limit in limits:
        print(
            f"{limit.backend.device}, {limit.backend.hardware}: matrix product {limit.flops / 1e9:,.0f} GFLOP/s in "
            f"float32, {limit.pixel_flops / 1e9:,.0f} with pixels, memory copy {limit.bandwidth / 1e9:,.1f} GB/s read "
            "and written"
        )
    if missing:
        print(f"GPU left out: {missing}")
    if not found:
        return
    devices = list(dict.fromkeys(row.backend.device for row in found))
    heads = ["batch", *devices, *(["ratio"] if len(devices) > 1 else [])]
    columns = Column("network", no_wrap=True), *(Column(head, justify="right") for head in heads)
    table = Table(*columns, title="float32, samples/s (share of products, of copy)", title_justify="left")
    cells: dict[tuple[str, str], dict[str, Throughput]] = {}
    for row in found:
        cells.setdefault((_network(row), _batch(row)), {})[row.backend.device] = row
    for (network, batch), by_device in cells.items():
        words = [_cell(by_device.get(device)) for device in devices]
        if len(by_device) > 1:
            slow, fast = (by_device[device].samples_per_second for device in devices)
            words.append(f"{fast / slow:.1f}")
        table.add_row(network, batch, *words)
    show(table)


def _network(row: Throughput) -> str:
    return "-".join(map(str, row.sizes))


def _batch(row: Throughput) -> str:
    return f"{row.batch:,}" if isinstance(row.batch, int) else row.batch


def _cell(row: Throughput | None) -> str:
    return f"{row.samples_per_second:,.0f} ({row.compute_share:.0%}, {row.memory_share:.0%})" if row else ""
