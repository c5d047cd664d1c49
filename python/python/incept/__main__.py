"""``python -m incept`` is the command ``incept``."""

from incept._command import main

if __name__ == "__main__":
    main()
