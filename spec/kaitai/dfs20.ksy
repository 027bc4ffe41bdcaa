meta:
  id: dfs20
  title: Durus DFS20 file
  file-extension: durus
  license: MIT
  endian: be
  imports:
    - record
doc: |
  The older file of a database [DFS-2]: the magic, the packed part, the index record, and further
  transactions up to the end of the file.

  The current record of an oid is in the last transaction after the index record that has one; else
  the index leads to it [DFS-5].

  What this description can't say:

  - the index is a pickle of a dict, from oids to the offsets of their entries [DFS-4];
  - an end that a crash has left [DFS-11]: a file whose last transaction is incomplete can't be
    parsed with this description, although a reader can tell what was committed before.
doc-ref: ../file-storage-2.md
seq:
  - id: magic
    contents: [DFS20, 0]
  - id: ofs_index
    type: u8
    valid:
      min: 14
  - id: packed
    size: ofs_index - 14
    doc: |
      Transactions. Their entries are reached through the index, and opening a file does not look at
      them [DFS-6].
  - id: len_index
    type: u8
  - id: index
    size: len_index
    process: zlib
  - id: transactions
    type: transaction
    repeat: eos
types:
  transaction:
    seq:
      - id: entries
        type: entry
        repeat: until
        repeat-until: _.len_record == 0
        doc: The last one only says that there are no more [DFS-3].
  entry:
    seq:
      - id: len_record
        type: u4
      - id: record
        type: record
        size: len_record
        if: len_record != 0
