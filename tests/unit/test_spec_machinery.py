"""The checks on spec/ find what they are for: each is shown a small made-up document with one fault."""

import json

import pytest

from tests.spec import (
    Document,
    Example,
    SpecError,
    Statement,
    bytes_and_expected,
    duplicate_faults,
    examples,
    marks,
    numbering_faults,
    parse_hex,
    parse_step,
    recipe,
    statements,
    steps,
    unknown_faults,
    unshown_faults,
    untested_faults,
    vectors,
)


def statements_of(name: str, *ids: str) -> list[Statement]:
    return statements(Document(name, "\n".join(f"**[{id}]** It MUST." for id in ids)))


def example_of(kind: str, body: str) -> Example:
    (example,) = examples(Document("record.md", f"```{kind} sample\n{body}\n```\n"))
    return example


class TestStatements:
    def test_are_found_with_their_lines(self) -> None:
        document = Document("shelf.md", "# Shelf\n\n**[SHELF-1]** A.\n**[SHELF-3]** B, see [SHELF-1].\n")
        assert statements(document) == [
            Statement("SHELF-1", "shelf.md", 3),
            Statement("SHELF-3", "shelf.md", 4),
        ]

    @pytest.mark.parametrize("text", ["```text\n**[SHELF-1]** A.\n```\n", "Such as `**[SHELF-1]**`.\n"])
    def test_in_code_do_not_count(self, text: str) -> None:
        assert statements(Document("shelf.md", text)) == []

    @pytest.mark.parametrize(
        "line",
        [
            "- **[SHELF-1]** A.",
            "**[shelf-1]** A.",
            "**[SHELF-01]** A.",
            "**[SHELF-1] A.**",
            "** [SHELF-1]** A.",
        ],
    )
    def test_that_are_not_well_formed_are_refused(self, line: str) -> None:
        with pytest.raises(SpecError, match=r"^shelf\.md:2: a statement starts its line"):
            statements(Document("shelf.md", f"\n{line}\n"))

    def test_in_order_with_gaps_are_fine(self) -> None:
        assert numbering_faults(statements_of("record.md", "REC-2", "REC-9", "REC-10")) == []

    def test_with_the_same_id_are_found(self) -> None:
        assert numbering_faults(statements_of("record.md", "REC-1", "REC-1")) == [
            "record.md:2: REC-1 is already at record.md:1"
        ]

    def test_out_of_order_are_found(self) -> None:
        assert numbering_faults(statements_of("record.md", "REC-10", "REC-9", "REC-11")) == [
            "record.md:2: REC-9 comes after a higher number"
        ]

    def test_with_another_documents_prefix_are_found(self) -> None:
        assert numbering_faults(statements_of("record.md", "SHELF-1")) == [
            "record.md:1: SHELF-1 has not this document's prefix, REC"
        ]

    def test_in_a_document_without_a_prefix_are_found(self) -> None:
        assert numbering_faults(statements_of("README.md", "REC-1")) == [
            "README.md:1: REC-1 is in a document that has no prefix"
        ]


class TestMarks:
    SOURCE = """
pytestmark = pytest.mark.spec("REC-1")

@pytest.mark.spec("REC-2", "REC-3")
class TestIt:
    @pytest.mark.spec("REC-4")
    async def test_it(self): ...

@pytest.mark.other("REC-5")
def test_other(): spec("REC-6")
"""

    def test_are_found_on_modules_classes_and_functions(self) -> None:
        assert {(mark.id, mark.line) for mark in marks("t.py", self.SOURCE)} == {
            ("REC-1", 2),
            ("REC-2", 4),
            ("REC-3", 4),
            ("REC-4", 6),
        }

    def test_that_are_not_literal_are_refused(self) -> None:
        with pytest.raises(SpecError, match=r"^t\.py:1: a spec mark takes literal strings"):
            marks("t.py", "pytestmark = pytest.mark.spec(*IDS)")

    def test_a_statement_that_none_names_is_found(self) -> None:
        named = marks("t.py", 'pytestmark = pytest.mark.spec("REC-1")')
        assert untested_faults(statements_of("record.md", "REC-1", "REC-2"), named) == [
            "record.md:2: REC-2 has no test"
        ]

    def test_one_that_names_no_statement_is_found(self) -> None:
        named = marks("t.py", 'pytestmark = pytest.mark.spec("REC-1", "REC-2")')
        assert unknown_faults(statements_of("record.md", "REC-1"), named) == ["t.py:1: there is no REC-2"]


class TestExamples:
    def test_are_the_blocks_with_a_kind_and_a_name(self) -> None:
        text = "# T\n\n```steps two-commits\na\n\nb\n```\n```python\nx\n```\n```\ny\n```\n"
        assert examples(Document("transactions.md", text)) == [
            Example("steps", "two-commits", "transactions.md", 3, "a\n\nb")
        ]

    def test_show_the_statements_that_they_name_or_the_one_before_them(self) -> None:
        text = "**[REC-1]** a\n\n```record it SHOULD REC-4 REC-1\n```\n\n**[REC-2]** b\n\n```steps that\n```\n"
        first, second = examples(Document("record.md", text))
        assert (first.statements, first.level) == (("REC-4", "REC-1"), "SHOULD")
        assert (second.statements, second.level) == (("REC-2",), "MUST")

    def test_in_a_longer_fence_may_hold_a_fence(self) -> None:
        (example,) = examples(Document("record.md", "````record it\n```\n````\n"))
        assert example.body == "```"

    @pytest.mark.parametrize(
        "info", ["record", "recrod it", "record it all", "record it REC-0", "record it REC-1 SHOULD"]
    )
    def test_with_another_info_string_are_refused(self, info: str) -> None:
        with pytest.raises(SpecError, match=r"^record\.md:1: an example is"):
            examples(Document("record.md", f"```{info}\n```\n"))

    def test_that_are_never_closed_are_refused(self) -> None:
        with pytest.raises(SpecError, match=r"^record\.md:2: this fenced block is never closed"):
            examples(Document("record.md", "\n```record it\n00\n"))

    def test_with_the_same_name_are_found(self) -> None:
        first = Example("record", "it", "record.md", 1, "")
        second = Example("shelf", "it", "shelf.md", 5, "")
        assert duplicate_faults([first, second]) == ["shelf.md:5: example it is already at record.md:1"]

    def test_that_no_must_has_are_found(self) -> None:
        stated = statements_of("record.md", "REC-1", "REC-2", "REC-3", "REC-4")
        levels = {"REC-1": "MUST", "REC-2": "MUST", "REC-3": "SHOULD", "REC-4": "MUST"}
        shown = [Example("record", "it", "record.md", 1, "", ("REC-1",))]
        reasons = {"REC-1": "a", "REC-4": "b", "shelf.md": "c"}
        assert unshown_faults(stated, levels, shown, reasons) == [
            "record.md:2: REC-2 has no example, and no reason in spec/without_vectors.toml",
            "spec/without_vectors.toml: REC-1 needs no reason",
            "spec/without_vectors.toml: shelf.md needs no reason",
        ]

    def test_of_bytes_hold_hex_and_json(self) -> None:
        assert bytes_and_expected(example_of("record", '0102\n---\n{"n":\n 1}')) == (b"\x01\x02", {"n": 1})

    def test_with_a_recipe_that_cannot_be_read_tell_the_line(self) -> None:
        assert recipe(example_of("large", '{"seed": 1}')) == {"seed": 1}
        with pytest.raises(SpecError, match=r"^record\.md:3: not JSON"):
            recipe(example_of("large", '{"seed": 1,\n]'))

    def test_of_bytes_without_a_divider_are_refused(self) -> None:
        with pytest.raises(SpecError, match=r"^record\.md:1: example sample has no line ---"):
            bytes_and_expected(example_of("record", "0102"))

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("00\n0g\n---\n1", r"^record\.md:3: not bytes in hex: '0g'"),
            ("00\n---\n{\n]", r"^record\.md:5: not JSON"),
        ],
    )
    def test_of_bytes_that_cannot_be_read_tell_the_line(self, body: str, message: str) -> None:
        with pytest.raises(SpecError, match=message):
            bytes_and_expected(example_of("record", body))

    def test_of_steps_are_lines_without_comments(self) -> None:
        example = example_of("steps", "# first\na = 1  # why\n\n  b#2\n")
        assert list(steps(example)) == [(3, "a = 1"), (5, "b#2")]


class TestHex:
    @pytest.mark.parametrize(
        ("text", "data"),
        [
            ("", b""),
            ("00 fF\n0a0b", b"\x00\xff\x0a\x0b"),
            ("01 # ff\n# ff", b"\x01"),
            ('"SHELF-1" 0a', b"SHELF-1\n"),
            ('"# no comment"# comment', b"# no comment"),
            ("7 * 00 01", bytes(7) + b"\x01"),
            ("00 10*ab", b"\x00" + 10 * b"\xab"),
        ],
    )
    def test_is_read(self, text: str, data: bytes) -> None:
        assert parse_hex(text, "record.md", 1) == data

    @pytest.mark.parametrize("text", ["0", "000", "0x00", "zz", '"open', '"é"', "3 * 0", "a * 00", "* 00"])
    def test_is_refused_with_its_place(self, text: str) -> None:
        with pytest.raises(SpecError, match=r"^record\.md:8: not bytes in hex"):
            parse_hex(f"00\n{text}", "record.md", 7)


class TestVectors:
    def test_hold_examples_with_the_statements_that_they_show(self) -> None:
        text = '**[REC-1]** a\n\n```record it\n"a" 2 * 00\n---\n{"oid": 1}\n```\n```steps that\nB: root.n = 1\n```\n'
        written = vectors(Document("record.md", text))
        assert written is not None
        head = {"level": "MUST", "statements": ["REC-1"]}
        assert json.loads(written) == [
            {"name": "it", "kind": "record", **head, "hex": "610000", "expected": {"oid": 1}},
            {
                "name": "that",
                "kind": "steps",
                **head,
                "steps": [{"client": "B", "step": "set", "object": "root", "key": "n", "value": 1}],
            },
        ]

    def test_are_none_without_examples(self) -> None:
        assert vectors(Document("record.md", "# T\n")) is None

    @pytest.mark.parametrize(
        ("text", "parsed"),
        [
            ("x is new", {"step": "new", "object": "x"}),
            ("x is a ghost", {"step": "status", "object": "x", "sees": "a ghost"}),
            ("read x.n -> 5", {"step": "read", "object": "x", "key": "n", "sees": 5}),
            ("read x.n -> y", {"step": "read", "object": "x", "key": "n", "sees": {"object": "y"}}),
            ("read x.n -> read conflict", {"step": "read", "object": "x", "key": "n", "sees": "read conflict"}),
            ("x.n = y", {"step": "set", "object": "x", "key": "n", "value": {"object": "y"}}),
            ("delete x.n", {"step": "delete", "object": "x", "key": "n"}),
            ("commit", {"step": "commit", "sees": "stored"}),
            ("commit -> write conflict on y, x", {"step": "commit", "sees": ["x", "y"]}),
            ("drop the states", {"step": "drop"}),
        ],
    )
    def test_hold_steps_in_parts(self, text: str, parsed: dict[str, object]) -> None:
        assert parse_step(text) == {"client": "A", **parsed}

    def test_hold_no_other_steps(self) -> None:
        with pytest.raises(SpecError, match="no step reads 'sing'"):
            parse_step("sing")
