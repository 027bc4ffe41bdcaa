"""What the tracker keeps: issues with comments, by number and by state."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import durus

State = Literal["open", "closed"]


def now() -> datetime:
    """Return the time as the tracker shows it."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Comment:
    """What somebody has said at some time; it never changes, so it is a plain value."""

    author: str
    text: str
    time: datetime


class Issue(durus.Persistent):
    """Something to be done."""

    def __init__(self, number: int, title: str, author: str) -> None:
        self.number = number
        self.title = title
        self.author = author
        self.time = now()
        self.state: State = "open"
        self.comments: durus.PersistentList[Comment] = durus.PersistentList()

    def comment(self, author: str, text: str) -> None:
        """Add a comment."""
        self.comments.append(Comment(author, text, now()))


class Tracker(durus.Persistent):
    """The root: all issues."""

    def __init__(self) -> None:
        self.issues: durus.BTree[int, Issue] = durus.BTree()

    def add(self, title: str, author: str) -> Issue:
        """Make an issue with the next number."""
        number = self.issues.get_max_item()[0] + 1 if self.issues else 1
        issue = self.issues[number] = Issue(number, title, author)
        return issue

    def in_state(self, state: State) -> list[Issue]:
        """Return the issues in a state, the newest first."""
        return [issue for _, issue in self.issues.items_backward() if issue.state == state]
