meta:
  id: shelf
  title: Durus SHELF-1 file
  file-extension: durus
  license: MIT
  endian: be
  imports:
    - record
    - seal
doc: |
  The file of a database [SHELF-2]: the magic, the first transaction, the offset map, and further
  transactions up to the end of the file.

  The current record of an oid is in the last transaction that has one; else the offset map leads to
  it [SHELF-11].

  What this description can't say:

  - the checksums, which the seals and the block table have [SHELF-15] [SHELF-42];
  - an end that a crash has left [SHELF-24]: a file whose last transaction is incomplete can't be
    parsed with this description, although a reader can tell what was committed before;
  - the order of the chain of free oids [SHELF-9];
  - an entry that has everything of a seal but its oid is unsound [SHELF-14].
doc-ref: ../shelf.md
seq:
  - id: magic
    contents: [SHELF-1, 0x0a]
  - id: len_packed
    type: u8
  - id: packed
    size: len_packed
    doc: |
      The entries of the first transaction. They are reached through the words of the offset map,
      and opening a file does not look at them [SHELF-7].
  - id: offset_map
    type: offset_map
  - id: transactions
    type: transaction
    repeat: eos
types:
  offset_map:
    doc: Where the entries of the first transaction are, and which oids are free [SHELF-6].
    seq:
      - id: len_map
        type: u8
      - id: len_word
        type: u8
        valid:
          min: 1
          max: 8
      - id: num_words
        type: u8
        valid:
          expr: len_map == 16 + len_word * _
      - id: words
        type: word(_index)
        size: len_word
        repeat: expr
        repeat-expr: num_words
    instances:
      start:
        value: 16 + _root.len_packed
  word:
    doc: Word number i belongs to oid i. It leads to its entry, or is a hole in the chain of free oids.
    params:
      - id: oid
        type: u8
    seq:
      - id: digits
        type: u1
        repeat: eos
    instances:
      num:
        value: digits.size
      low_half:
        value: |
          digits[num - 1] + (num > 1 ? digits[num - 2] * 0x100 : 0)
          + (num > 2 ? digits[num - 3] * 0x10000 : 0) + (num > 3 ? digits[num - 4] * 0x1000000 : 0)
      high_half:
        value: |
          (num > 4 ? digits[num - 5] : 0) + (num > 5 ? digits[num - 6] * 0x100 : 0)
          + (num > 6 ? digits[num - 7] * 0x10000 : 0) + (num > 7 ? digits[num - 8] * 0x1000000 : 0)
      value:
        value: high_half * 0x100000000 + low_half
      start:
        value: _root.offset_map.start
      is_hole:
        value: value >= start
      next:
        value: value - start
        if: is_hole
        doc: The next free oid in the chain [SHELF-9].
      entry:
        io: _root._io
        pos: value
        type: packed_entry(oid)
        if: not is_hole
        doc: The entry of this oid [SHELF-8].
  packed_entry:
    params:
      - id: expected_oid
        type: u8
    seq:
      - id: len_entry
        type: u8
        valid:
          expr: _io.pos >= 24 and _io.pos + _ <= 16 + _root.len_packed
      - id: oid
        type: record::oid
        valid:
          expr: _.value == expected_oid
      - id: record
        type: record
        size: len_entry - 8
        valid:
          expr: _.oid.value == expected_oid
  transaction:
    doc: A transaction without entries changes nothing.
    seq:
      - id: len_entries
        type: u8
        valid:
          expr: end <= _io.size
      - id: entries
        type: entries(end)
        size: len_entries
    instances:
      end:
        value: _io.pos + len_entries
        doc: The check of the length takes this value, while `_io.pos` is where the entries begin.
  entries:
    params:
      - id: end
        type: u8
    seq:
      - id: entries
        type: entry
        repeat: eos
    instances:
      is_sealed:
        value: entries.size > 0 and entries.last.oid.is_seal
        doc: A transaction without a seal is covered by the next seal, or by none [SHELF-16].
  entry:
    doc: An object entry [SHELF-5].
    seq:
      - id: len_entry
        type: u8
      - id: oid
        type: record::oid
      - id: seal
        type: seal(_parent.end)
        size: len_entry - 8
        if: oid.is_seal
        valid:
          expr: _io.eof
        doc: A seal is the last entry [SHELF-14].
      - id: record
        type: record
        size: len_entry - 8
        if: not oid.is_seal
        valid:
          expr: _.oid.high == oid.high and _.oid.low == oid.low
