meta:
  id: record
  title: Durus object record
  license: MIT
  endian: be
doc: |
  One object as it is stored [REC-4]. Both kinds of files hold records, and servers send them.

  What this description can't say:

  - `data` is two pickles, the class and the state, of which the second may be compressed
    [REC-10] [REC-13]; pickle.md describes them;
  - `refs` are sorted, each once, and what the state refers to [REC-7].
doc-ref: ../record.md
seq:
  - id: oid
    type: oid
  - id: len_data
    type: u4
    valid:
      min: 1
    doc: A record without data is malformed [REC-5].
  - id: data
    size: len_data
  - id: refs
    type: oid
    repeat: eos
types:
  oid:
    doc: |
      A u64 [REC-1]. It is in two halves, because a program in JavaScript has no exact number for
      all of its bits.
    seq:
      - id: high
        type: u4
      - id: low
        type: u4
    instances:
      value:
        value: high * 0x100000000 + low
      is_reserved:
        value: high == 0xffffffff and low >= 0xffffff00
        doc: It is the storage's own [REC-3].
      is_seal:
        value: high == 0xffffffff and low == 0xffffffff
      is_block_table:
        value: high == 0xffffffff and low == 0xfffffffe
