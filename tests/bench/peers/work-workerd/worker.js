// The JSON job of `guests/work-rust`, for workerd: the same input, the same answer.

const STEPS = 10_000;

function hash(seed, steps) {
  let x = seed | 1;
  for (let step = 0; step < steps; step++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    x = Math.imul(x, 0x9e3779b1) | 1;
  }
  return x >>> 0;
}

export default {
  async fetch(request) {
    const path = new URL(request.url).pathname;
    if (!path.endsWith("/json")) return new Response("Hello from Odeon\n");
    const body = new Uint8Array(await request.arrayBuffer());
    const order = JSON.parse(new TextDecoder().decode(body));
    let total = 0;
    const products = [];
    for (const line of order.lines) {
      total += line.quantity * line.price_cents;
      products.push(line.product);
    }
    let seed = 0;
    for (const byte of body) seed = (Math.imul(seed, 31) + byte) | 0;
    const receipt = { customer: order.customer, products, total_cents: total, hash: hash(seed, STEPS) };
    return new Response(JSON.stringify(receipt), { headers: { "content-type": "application/json" } });
  },
};
