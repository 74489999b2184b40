"""Sends updates to spendflush, so that each counts once whatever happens to a request.

Every update has an id before it is sent for the first time, and is sent again, to the next address,
until an instance has said that it is committed. One file, Python 3.9 or newer, standard library only.

    client = spendflush.Client(["http://10.0.0.1:4180", "http://10.0.0.2:4180"], token="...")
    client.record({"spend": "0.0123", "api_key": "sk-1", "model": "gpt-5"})
    client.close()   # at the latest when the interpreter exits, by itself
"""

from __future__ import annotations

import atexit
import copy
import datetime
import decimal
import http.client
import json
import logging
import os
import random
import secrets
import ssl
import threading
import time
import urllib.parse
import weakref

log = logging.getLogger("spendflush")

_MOST_BYTES = 4 << 20  # of a body, half of what an instance takes
_FIRST_PAUSE, _MOST_PAUSE = 0.1, 10.0  # seconds


class Full(Exception):
    """As many updates wait as max_pending allows."""


class Closed(Exception):
    """The client is closed."""


class Client:
    """Sends updates in the background. Its methods may be called from any thread.

    urls          addresses of the instances; a failed request goes on to the next one
    token         of the role write, None if the instances want none
    max_pending   updates that wait at once, beyond which record raises Full
    max_batch     updates of one request, 1 to 10,000
    interval      seconds that the first update of a request waits for others
    requests      requests under way at once
    timeout       seconds of one request, over 1
    refused       called with (update, reason) for each update that the instances will never take, from a
                  thread of the client, which it must not wait for; None: it is logged
    context       ssl.SSLContext for https, None: the default one

    A process that forks has nothing of its parent's updates in the child: the parent sends them.
    """

    def __init__(self, urls, token=None, *, max_pending=100_000, max_batch=1000, interval=1.0, requests=2,
                 timeout=30.0, refused=None, context=None):
        if isinstance(urls, str) or not urls:
            raise ValueError("urls must be a list of at least one address of an instance")
        if max_pending < 1 or not 1 <= max_batch <= 10_000 or requests < 1:
            raise ValueError("max_pending and requests must be at least 1, and max_batch 1 to 10,000")
        if interval < 0 or timeout <= 1:
            raise ValueError("interval must not be negative, and timeout over 1 second")
        self._urls = [urllib.parse.urlsplit(url) for url in urls]
        for url, parts in zip(urls, self._urls):
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"urls has {url!r}; want http://HOST:PORT or https://...")
        self._token, self._refused, self._context = token, refused, context
        self._max_pending, self._max_batch, self._interval = max_pending, max_batch, interval
        self._requests, self._timeout = requests, timeout
        self._reset()
        atexit.register(_close_at_exit, weakref.ref(self))
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_reset_in_child(weakref.ref(self)))

    def _reset(self):
        self._changed = threading.Condition()  # guards what follows
        self._pending = []  # not taken by a request yet
        self._first = 0.0  # since when the first of them waits
        self._sending = 0  # updates in requests under way
        self._hurry = 0  # calls of flush under way
        self._closed = self._stopped = False
        self._threads = []

    def record(self, update):
        """Takes an update, which the client sends soon, and returns its id. It doesn't block.

        update has the fields of POST /v1/updates. One without "id" gets a random one, and one without "time"
        the present. Raises Full, Closed, or TypeError or ValueError if it can't be made JSON of.
        """
        own = copy.deepcopy(dict(update))
        if own.get("id") is None:
            own["id"] = secrets.token_hex(16)
        if own.get("time") is None:
            own["time"] = datetime.datetime.now(datetime.timezone.utc).isoformat()
        text = json.dumps(own, default=_plain, allow_nan=False).encode()
        with self._changed:
            if self._closed:
                raise Closed("the client is closed")
            if len(self._pending) + self._sending >= self._max_pending:
                raise Full(f"{self._max_pending} updates wait")
            if not self._pending:
                self._first = time.monotonic()
            self._pending.append((own, text))
            if not self._threads:  # not before: a process may fork until then
                self._threads = [threading.Thread(target=self._send, args=(n,), daemon=True, name=f"spendflush-{n}")
                                 for n in range(self._requests)]
                for thread in self._threads:
                    thread.start()
            if len(self._pending) == 1 or len(self._pending) >= self._max_batch:
                self._changed.notify_all()
        return own["id"]

    def flush(self, timeout=None):
        """Waits until all that was recorded is committed or refused, for at most timeout seconds. Says whether it is."""
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._pending and not self._sending, timeout)
            finally:
                self._hurry -= 1

    def close(self, timeout=30.0):
        """Takes no more updates, sends what is left for at most timeout seconds, and stops.

        Returns the updates that aren't known to be committed. They have their ids, so that they may be recorded again,
        by any client, within the window of ids.
        """
        with self._changed:
            self._closed = True
        self.flush(timeout)
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            threads = self._threads
        for thread in threads:
            thread.join(self._timeout)
        with self._changed:
            return [update for update, _ in self._pending]

    def _send(self, at):
        connections = {}
        while True:
            batch = self._take()
            if batch is None:
                return
            left, pause = batch, _FIRST_PAUSE
            while left and not self._stopped:
                left, after = self._try(connections, at % len(self._urls), left)
                if after is None:
                    pause = _FIRST_PAUSE
                    continue
                at += 1
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, max(after, random.uniform(0, pause)))
                pause = min(2 * pause, _MOST_PAUSE)
            with self._changed:
                self._sending -= len(batch)
                self._pending[:0] = left
                self._changed.notify_all()

    def _take(self):
        """Waits for the updates of a request. None: the client is stopped."""
        with self._changed:
            while not self._stopped:
                wait = None
                if self._pending:
                    wait = self._first + self._interval - time.monotonic()
                    if len(self._pending) >= self._max_batch or self._hurry or wait <= 0:
                        batch, self._pending = self._pending[:self._max_batch], self._pending[self._max_batch:]
                        self._first = time.monotonic()
                        self._sending += len(batch)
                        return batch
                self._changed.wait(wait)
            return None

    def _try(self, connections, at, batch):
        """Makes one request. Returns what is left to be sent, and None or, if it failed for a reason that isn't the
        updates', for how many seconds the instance wants to be left alone."""
        n, size = 0, 0
        for _, text in batch:
            if n and size + len(text) > _MOST_BYTES:
                break
            n, size = n + 1, size + len(text) + 1
        try:
            status, headers, answer = self._post(connections, at, b"[" + b",".join(text for _, text in batch[:n]) + b"]")
        except (OSError, http.client.HTTPException) as error:
            log.debug("updates are sent again: %s: %s", self._urls[at].netloc, error)
            return batch, 0.0
        if status // 100 == 2:
            return batch[n:], None
        if status in (408, 429) or status >= 500:
            log.debug("updates are sent again: %s answers %d", self._urls[at].netloc, status)
            after = headers.get("Retry-After", "")
            return batch, min(float(after), 60.0) if after.isdigit() else 0.0

        try:
            problem = json.loads(answer)
        except ValueError:
            problem = {}
        title, errors = problem.get("title", f"status {status}"), problem.get("errors")
        if errors and status in (400, 422):
            named = {}
            for one in errors:
                named.setdefault(one["index"], f"{title} {one.get('field', '')} {one.get('detail', '')}")
            for index, reason in sorted(named.items()):
                self._refuse(batch[index][0], reason)
            return [one for index, one in enumerate(batch) if index not in named], None
        if status in (400, 413) and n > 1:  # one of them, and it isn't said which
            left, after = self._try(connections, at, batch[:n // 2])
            return left + batch[n // 2:], after
        if status in (400, 413, 422):
            self._refuse(batch[0][0], f"{title} {problem.get('detail', '')}")
            return batch[1:], None
        log.error("%s refuses requests of this client; they are tried again: %d %s %s",
                  self._urls[at].netloc, status, title, problem.get("detail", ""))
        return batch, _MOST_PAUSE

    def _post(self, connections, at, body):
        url = self._urls[at]
        connection = connections.get(at)
        if connection is None:
            if url.scheme == "https":
                connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=self._timeout,
                                                         context=self._context or ssl.create_default_context())
            else:
                connection = http.client.HTTPConnection(url.hostname, url.port, timeout=self._timeout)
            connections[at] = connection
        wait = min(0.75 * self._timeout, 60)  # so that the instance answers before the request ends
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = "Bearer " + self._token
        try:
            connection.request("POST", f"{url.path.rstrip('/')}/v1/updates?ack=committed&timeout={int(wait * 1000)}ms", body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        except BaseException:
            connection.close()
            del connections[at]
            raise

    def _refuse(self, update, reason):
        if self._refused is None:
            log.error("an update is refused, and is not counted: %s: %s", reason, update)
            return
        try:
            self._refused(update, reason)
        except Exception:
            log.exception("refused has failed")


def _plain(value):
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{value!r} can't be sent")


def _close_at_exit(client):
    client = client()
    if client is not None and not client._closed:
        left = client.close()
        if left:
            log.error("%d updates are not known to be committed", len(left))


def _reset_in_child(client):
    def reset():
        one = client()
        if one is not None:
            one._reset()
    return reset
