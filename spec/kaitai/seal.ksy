meta:
  id: seal
  title: Record of a seal in a SHELF-1 file
  license: MIT
  endian: be
  encoding: ASCII
doc: |
  The record of the entry of oid 2^64-1, with which a transaction ends [SHELF-13].

  What this description can't say:

  - `checksum` is the crc32 of the bytes since the last seal, and continues from that one's
    [SHELF-15];
  - the digits of `position` and `checksum` are lower-case, and `time` has digits where
    `2026-11-23T19:11:01.123456Z` has some.
doc-ref: ../shelf.md
params:
  - id: end
    type: u8
    doc: Where the transaction ends.
seq:
  - id: oid
    contents: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
  - id: len_data
    contents: [0, 0, 0, 104]
  - id: class_pickle
    contents: [0x80, 2, "cdurus.persistent", 0x0a, Persistent, 0x0a, "."]
  - id: state_start
    contents: [0x80, 2, "}X", 4, 0, 0, 0, seal, X, 53, 0, 0, 0]
  - id: position
    type: str
    size: 16
    valid:
      expr: _.to_i(16) == end - 132 and _io.size == 116
    doc: The offset of this entry, in hex digits [SHELF-14].
  - id: space_before_time
    contents: " "
  - id: time
    type: str
    size: 27
  - id: space_after_time
    contents: " "
  - id: checksum
    type: str
    size: 8
  - id: state_end
    contents: s.
instances:
  checksum_value:
    value: checksum.to_i(16)
