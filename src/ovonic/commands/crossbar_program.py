"""``ovonic crossbar program``: a model into a simulated chip's devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ovonic.commands.common import JsonFile, Quiet, Seed, command_line, file_to_write, write_json
from ovonic.commands.crossbar_common import Force, check_free, layer_table, provenance
from ovonic.commands.crossbar_map import load_layout
from ovonic.commands.crossbar_sources import NoiseModel, Part, SourceName, parse_noise_model, read_placed_source
from ovonic.models.errors import ConfigError

__all__ = ["program"]


def program(
    source: SourceName,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="CHIP.h5", help="The image to write.", callback=file_to_write)
    ],
    noise_model: NoiseModel = "pcm",
    part: Part = None,
    layout: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Where the weights lie (default: as 'map' places them).")
    ] = None,
    device_split: Annotated[
        str, typer.Option(metavar="fill|equal|set_and_tune", help="How a weight fills the two devices of a polarity.")
    ] = "fill",
    verify: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Program and verify: N pulses a device at most.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(metavar="US", help="Error that is accepted in verifying, uS (default: 0.5).")
    ] = None,
    stuck_low: Annotated[float, typer.Option(min=0, max=1, help="Share of devices stuck at 0 uS.")] = 0.0,
    stuck_high: Annotated[float, typer.Option(min=0, max=1, help="Share of devices stuck at full scale.")] = 0.0,
    device_sigma: Annotated[float, typer.Option(min=0, help="Spread from device to device, of the logarithm.")] = 0.0,
    levels: Annotated[int | None, typer.Option(min=2, help="How many conductances a device can be set to.")] = None,
    read_phases: Annotated[int, typer.Option(help="Phases of a signed read: 1, 2 or 4.")] = 1,
    seed: Seed = 2025,
    force: Force = False,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Program a model into the devices of a simulated chip, and write the chip."""
    from ovonic.adapters.crossbar_file import save_image
    from ovonic.adapters.crossbar_image import image_of
    from ovonic.adapters.crossbar_placed import PlacedChip
    from ovonic.models.chip import SimulatedChip
    from ovonic.models.device_faults import Faults
    from ovonic.models.periphery import Periphery
    from ovonic.models.splitting import split_named
    from ovonic.models.verify import Verify
    from ovonic.validation.crossbar_inspection import inspect_image

    check_free(out, force, ".h5", ".hdf5")
    split_named(device_split)
    if tolerance is not None and verify is None:
        raise ConfigError(f"--tolerance {tolerance}: means nothing without --verify N")
    checked = None if verify is None else Verify(verify, 0.5 if tolerance is None else tolerance)
    model = parse_noise_model(noise_model)
    found = read_placed_source(source, part)
    periphery = Periphery(read_phases=read_phases)
    placed = (found.layout() if layout is None else load_layout(layout)).with_read_phases(read_phases)
    sizes = {(array.rows, array.columns) for array in placed.arrays}
    if len(sizes) > 1:
        raise ConfigError(f"--layout {layout}: arrays of {sorted(sizes)}: a simulated chip has arrays of one size")
    rows, columns = sizes.pop()
    faults = Faults(stuck_low, stuck_high, 0.0, device_sigma, levels)
    chip = SimulatedChip(
        len(placed.arrays),
        model,
        periphery,
        seed=seed,
        rows=rows,
        columns=columns,
        verify=checked,
        faults=None if faults == Faults() else faults,
    )
    PlacedChip.program(placed, found.weights, chip, device_split)
    history = provenance(source, kind=found.kind, noise_model=noise_model)
    image = image_of(chip, placed, split=device_split, software=found.software(), provenance=history)
    save_image(out, image)
    inspection = inspect_image(image)
    result: dict[str, Any] = {"out": out, "source": found.kind, "arrays": len(placed.arrays), **inspection.as_dict()}
    result |= {"counters": chip.counters.as_dict(), "verified": [c._asdict() for c in chip.convergence]}
    if str(json) != "-" and not quiet:
        arrays = f"{len(placed.arrays)} array{'s' * (len(placed.arrays) > 1)} of {rows} x {columns}"
        typer.echo(f"{source}: {found.kind} on {arrays}, {model.name}, seed {seed}")
        typer.echo(layer_table(inspection))
        counted = chip.counters
        typer.echo(f"{counted.cells_programmed} cells, {counted.devices_programmed} devices, {counted.pulses} pulses")
        for array, how in zip(placed.arrays, chip.convergence, strict=False):
            errors = f"{how.error_us[0]:.3f} -> {how.error_us[-1]:.3f} uS"
            within = f"{how.within[-1]:.1%} of devices within {checked.tolerance_us if checked else 0:g} uS"
            typer.echo(f"{array.name}: {len(how.active)} iterations, {within}, error {errors}")
        typer.echo(f"{out}: written", err=True)
    config: dict[str, Any] = {"source": source, "part": part, "noise_model": noise_model, "layout": layout}
    config |= {"split": device_split, "verify": checked, "faults": faults, "periphery": periphery, "seed": seed}
    config["command"] = command_line()
    write_json(json, "crossbar-program", result, config)
