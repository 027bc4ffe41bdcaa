"""Write spec/vectors/ from the documents' examples: `python -m spec.make_vectors`, in the project's root."""

from tests.spec import VECTORS, all_vectors


def main() -> None:
    VECTORS.mkdir(exist_ok=True)
    texts = all_vectors()
    for path in VECTORS.glob("*"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (VECTORS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
