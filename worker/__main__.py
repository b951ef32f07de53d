"""`python -m worker`, the same as the console script `gigya-worker`."""

from worker.cli.main import run

if __name__ == "__main__":
    run()
