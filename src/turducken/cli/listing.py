"""``turducken images`` and ``turducken profiles``: what comes with the package."""

import typer

from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.machine.boot import BootImage
from turducken.system import find_image, shipped_images
from turducken.vmx.profile import list_profiles, load_profile

app = typer.Typer(add_completion=False)


@app.command(cls=command_with(exit_statuses()))
def images() -> None:
    """List the images that come with the package, with their files."""
    for name, path in shipped_images().items():
        image = find_image(name)
        assert isinstance(image, BootImage), "what is shipped is Multiboot"
        size = sum(len(one.data) for one in image.segments)
        print(f"{name:16} {size / 1024:5.0f} KiB, loads at {image.start:#x}  {path}")


@app.command(cls=command_with(exit_statuses()))
def profiles() -> None:
    """List the processor profiles that come with the package."""
    for name in list_profiles():
        profile = load_profile(name)
        print(f"{name:16} {profile.description}")
