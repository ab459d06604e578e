"""The sub-commands of `ovonic`: thin shells, quick to import (typer and the standard library at their top)."""
