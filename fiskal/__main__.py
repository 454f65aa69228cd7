"""``python -m fiskal`` is the command ``fiskal``."""

from fiskal.cli import main

if __name__ == "__main__":
    main()
