// Records updates through the client at clients/javascript, and tells what became of them.
const { Client, FullError } = await import(`${process.env.CLIENTS}/javascript/spendflush.mjs`);

const urls = process.env.URLS.split(","), token = process.env.TOKEN;
const refused = [];
const client = new Client(urls, { token, maxBatch: 40, interval: 50, timeout: 4000, refused: (_, reason) => refused.push(reason) });
for (let i = 0; i < Number(process.env.UPDATES); i++) {
  client.record({ spend: "0.000000000001", api_key: `key-${i % 7}`, tags: ["b", "a"] });
}
client.record({ id: "too much", spend: "1e10", api_key: "key-0" });
const small = new Client(urls, { token, maxPending: 1 });
small.record({ spend: "0.000000000001", api_key: "key-0" });
let full = 0;
try {
  small.record({ spend: 1, api_key: "key-0" });
} catch (error) {
  if (!(error instanceof FullError)) throw error;
  full = 1;
}
if (process.env.EXIT !== "at once") { // else it is sent when the event loop is empty
  if (!await client.flush(120_000)) throw new Error("not flushed");
  const left = await client.close(60_000);
  console.log(JSON.stringify({ left: left.length, refused, full }));
}
