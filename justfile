# `just <recipe>`; each is one line, to be typed by hand where just is not installed.

# Show what there is
default:
    @just --list

# The main job from start to proof, on one machine, with nothing installed but this
demo *args:
    uv run ringonce demo {{ args }}

# All tests, or those you name: just test tests/unit
test *args:
    uv run pytest {{ args }}

# The checks of .ci/run, short of the tests
lint:
    uv run ruff check
    uv run ruff format --check
    uv run mypy
    uv run lint-imports --no-logo

# Break what decides about retries in every small way, and see that a test notices
mutate:
    uv run --group mutation python -m tests.mutants.lines

# Measure, beside other queues; some pieces only: just bench latency burst
bench *args:
    uv run --group bench python -m tests.benchmarks {{ args }}

# Put the code into the one form, and mend what ruff can mend
format:
    uv run ruff check --fix
    uv run ruff format

# What CI runs, on this machine
ci:
    .ci/run

# Pin what is new (just pins), or move every pin to the newest that fits (just pins --upgrade)
pins *args:
    uv run --no-project --python '>=3.11' python .ci/pins.py {{ args }}
