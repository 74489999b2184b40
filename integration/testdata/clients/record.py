# Records updates through the client at clients/python, and tells what became of them.
import decimal
import json
import os
import sys

sys.path.insert(0, os.environ["CLIENTS"] + "/python")
import spendflush  # noqa: E402

refused = []
client = spendflush.Client(os.environ["URLS"].split(","), os.environ["TOKEN"], max_batch=40, interval=0.05, timeout=4.0,
                           refused=lambda update, reason: refused.append(reason))
n = int(os.environ["UPDATES"])
for i in range(n):
    client.record({"spend": decimal.Decimal("0.000000000001"), "api_key": f"key-{i % 7}", "tags": {"b", "a"}})
client.record({"id": "too much", "spend": "1e10", "api_key": "key-0"})
full = 0
small = spendflush.Client(os.environ["URLS"].split(","), os.environ["TOKEN"], max_pending=1)
small.record({"spend": "0.000000000001", "api_key": "key-0"})
try:
    small.record({"spend": 1, "api_key": "key-0"})
except spendflush.Full:
    full = 1
if os.environ.get("EXIT") != "at once":  # else it is closed as the interpreter exits
    assert client.flush(120), "not flushed"
    left = client.close(60)
    print(json.dumps({"left": len(left), "refused": refused, "full": full}))
