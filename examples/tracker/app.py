"""An issue tracker for many users: `flask --app app run`, or gunicorn with any number of workers."""

import os
from typing import cast

from flask import Flask, abort, redirect, render_template, request, url_for
from model import Issue, State, Tracker
from werkzeug.wrappers import Response

import durus
import durus.web

app = Flask(__name__)
app.config["PROPAGATE_EXCEPTIONS"] = True  # without it Flask logs each conflict as an error
db = durus.open(os.environ.get("TRACKER_DB", "tracker.durus"), root_class=Tracker)
app.wsgi_app = durus.web.WSGIMiddleware(app.wsgi_app, db)  # type: ignore[method-assign]  # as Flask documents it


def tracker() -> Tracker:
    """Return the root, in the transaction of the request."""
    return cast(Tracker, durus.web.root())


def issue_of(number: int) -> Issue:
    """Return an issue; a request for one that does not exist ends with 404."""
    return tracker().issues.get(number) or abort(404)


def field(name: str) -> str:
    """Return what the form has; a request without it ends with 400."""
    return request.form.get(name, "").strip() or abort(400, f"{name} is missing")


@app.get("/")
def show_all() -> str:
    state: State = "closed" if request.args.get("state") == "closed" else "open"
    return render_template("issues.html", issues=tracker().in_state(state), state=state)


@app.post("/")
def add() -> Response:
    issue = tracker().add(field("title"), field("author"))
    return redirect(url_for("show", number=issue.number), 303)


@app.get("/<int:number>")
def show(number: int) -> str:
    return render_template("issue.html", issue=issue_of(number))


@app.post("/<int:number>")
def comment(number: int) -> Response:
    issue = issue_of(number)
    if request.form.get("text", "").strip():
        issue.comment(field("author"), field("text"))
    if request.form.get("state") in ("open", "closed"):
        issue.state = "closed" if request.form["state"] == "closed" else "open"
    return redirect(url_for("show", number=number), 303)
