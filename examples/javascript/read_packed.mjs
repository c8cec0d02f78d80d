// Read the weights of a packed file in JavaScript, without dependencies.
//
//     node examples/javascript/read_packed.mjs res20_4bit/model.apot.safetensors
//
// Numbers in brackets are sections of FORMAT.md. `readPacked` works in browsers, too. Of what a
// reader must reject (5) it looks for damage and other versions only.

/**
 * Read the bytes of a packed file (a Uint8Array). Returns `{ network, layers }`: its JSON description
 * (2.1), and a Map from every layer's name to `{ kind, shape, weights, levels }`. `weights` is a
 * Float32Array, bit for bit what was trained; `levels` an Int32Array, or null in layers without codes.
 */
export function readPacked(bytes) {
  const file = new Uint8Array(bytes); // a copy, whose slices are copies, too: aligned ones
  const text = (begin, end) => new TextDecoder().decode(file.subarray(begin, end));
  check(text(8, 41) === '{"__metadata__":{"header_crc32":"', "this is no packed file");
  const start = 8 + Number(new DataView(file.buffer).getBigUint64(0, true));
  const header = file.slice(8, start).fill(0x30, 33, 41); // its own checksum counts as zeros (1.4)
  check(start <= file.length && crc32(header) === text(41, 49), "the header is damaged");
  const { __metadata__: metadata, ...entries } = JSON.parse(text(8, start));
  const version = `${metadata.format} ${metadata.format_version}`;
  const known = ["apot-packed 2", "apot-packed 3"]; // 3 has more operations, and the same layers
  check(known.includes(version), `${known.join(" or ")} is read, not ${version}`);

  const tensors = {};
  const named = Object.entries(entries).filter(([name]) => !name.startsWith("_padding."));
  named.sort(([, one], [, other]) => one.data_offsets[0] - other.data_offsets[0]);
  named.forEach(([name, { dtype, data_offsets: [begin, end] }], index) => {
    const content = file.slice(start + begin, start + end);
    const stated = metadata.checksums.slice(8 * index, 8 * index + 8);
    check(content.length === end - begin && crc32(content) === stated, `${name} is damaged`);
    tensors[name] = dtype === "F32" ? new Float32Array(content.buffer) : content;
  });

  const network = JSON.parse(metadata.network);
  const layers = new Map();
  for (const [name, layer] of Object.entries(network.layers)) {
    const tensor = (part) => tensors[`${name}.${part}`];
    const run = (range) => tensors.parameters.subarray(...range);
    let { kind, shape } = layer, levels = null, weights;
    if (kind === "float") {
      shape = entries[`${name}.weight`].shape;
      weights = tensor("weight");
    } else if (kind === "coded") {
      const levelOf = codebookLevels(network.codebooks[layer.codebook]), valueOf = run(layer.values);
      const codes = readCodes(tensor("codes"), layer.storage, Math.log2(levelOf.length), product(shape));
      levels = Int32Array.from(codes, (code) => levelOf[code]);
      weights = Float32Array.from(codes, (code) => valueOf[code]);
    } else {
      check(kind === "planes", `${name} is of the unknown kind ${kind}`);
      weights = sumPlanes(layer, tensor("planes"), (bases) =>
        layer.terms ? sumTerms(tensor("terms"), bases, layer.terms) : run(layer.coordinates));
    }
    layers.set(name, { kind, shape, weights, levels });
  }
  return { network, layers };
}

/** The level of every code (3.2, 3.3). */
function codebookLevels({ tables, signed }) {
  return Int32Array.from({ length: product(tables.map((t) => t.length)) * (signed ? 2 : 1) }, (_, code) => {
    let level = 0;
    for (const table of tables) {
      level += table[code % table.length];
      code = Math.floor(code / table.length);
    }
    return code ? -level : level;
  });
}

function readCodes(bytes, storage, bits, count) {
  if (!storage) return unpack(bytes, bits, count);
  if (storage.digits) return readDigits(bytes, storage.digits, count);
  check(storage.entropy, `the storage ${Object.keys(storage)} is unknown`);
  return readEntropy(bytes, ...storage.entropy, bits, count);
}

/** Codes of a bit stream (3.1). */
function unpack(bytes, bits, count) {
  return Uint16Array.from({ length: count }, (_, i) => {
    const at = Math.floor((i * bits) / 8); // a byte beyond the end is undefined, which counts as 0
    return ((bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16)) >> ((i * bits) % 8)) & (2 ** bits - 1);
  });
}

/** Codes that are digits of a base (3.7). */
function readDigits(bytes, meaning, count) {
  const base = meaning.length;
  let held = 1; // digits of a byte
  while (base ** (held + 1) <= 256) held++;
  return Uint16Array.from({ length: count }, (_, i) =>
    meaning[Math.floor(bytes[Math.floor(i / held)] / base ** (i % held)) % base]);
}

/** Entropy-coded codes (3.8). */
function readEntropy(bytes, m, lanes, bits, count) {
  const view = new DataView(bytes.buffer), codeOf = new Uint16Array(2 ** m), startOf = [];
  let start = 0, position = 2 * 2 ** bits + 4 * lanes, i = 0;
  const frequency = Array.from({ length: 2 ** bits }, (_, code) => view.getUint16(2 * code, true));
  frequency.forEach((f, code) => {
    startOf.push(start);
    codeOf.fill(code, start, (start += f));
  });
  check(start === 2 ** m, "the frequencies have another sum");
  const states = Array.from({ length: lanes }, (_, j) => view.getUint32(2 * 2 ** bits + 4 * j, true));
  const k = Math.floor(16 / Math.max(m, bits));
  const turns = Math.ceil(Math.max(0, count - Math.floor((16 * lanes) / bits)) / (k * lanes));
  const codes = new Uint16Array(count);
  for (let turn = 0; turn < turns; turn++) {
    for (let j = 0; j < lanes; j++) {
      let x = states[j];
      for (const last = i + k; i < last; i++) {
        const slot = x % 2 ** m, code = (codes[i] = codeOf[slot]);
        x = frequency[code] * Math.floor(x / 2 ** m) + slot - startOf[code];
      }
      if (x < 2 ** 16) {
        x = 2 ** 16 * x + view.getUint16(position, true);
        position += 2;
      }
      states[j] = x;
    }
  }
  check(position === bytes.length, "words are left over");
  const tail = Uint8Array.from(states.flatMap((x) => [x & 255, (x >> 8) & 255])); // x - 2^16, two bytes
  codes.set(unpack(tail, bits, count - i), i);
  return codes;
}

/** Weights that are sums of scaled sign vectors (3.6). */
function sumPlanes({ shape, group_size, count_bits = 3, position_major }, bytes, coordinatesOf) {
  const groups = product(shape) / group_size, split = Math.ceil((groups * count_bits) / 8);
  const counts = unpack(bytes.subarray(0, split), count_bits, groups);
  const bases = counts.reduce((sum, n) => sum + n, 0);
  const signs = unpack(bytes.subarray(split), 1, bases * group_size), coordinates = coordinatesOf(bases);
  const weights = new Float32Array(product(shape)); // each sum is rounded to F32 as it is stored
  for (let group = 0, basis = 0; group < groups; group++) {
    for (const last = basis + counts[group]; basis < last; basis++) {
      for (let i = 0; i < group_size; i++) {
        const sign = signs[basis * group_size + i] ? 1 : -1;
        weights[group * group_size + i] += sign * coordinates[basis];
      }
    }
  }
  if (!position_major) return weights;
  const [, inputs, height, width] = shape, places = height * width;
  return weights.map((_, i) => { // weight i is of output o, input c and place p of the kernel
    const p = i % places, c = Math.floor(i / places) % inputs, o = Math.floor(i / (places * inputs));
    return weights[(o * places + p) * inputs + c];
  });
}

/** Coordinates that are sums of powers of two, rounded once to F32 (3.6). */
function sumTerms(bytes, bases, terms) {
  return Float32Array.from({ length: bases }, (_, basis) => {
    let sum = 0n; // in units of 2^-64, exact
    for (const term of bytes.subarray(basis * terms, (basis + 1) * terms)) {
      if (term) sum += (term & 128 ? -1n : 1n) << BigInt(term & 127);
    }
    const size = sum < 0n ? -sum : sum, dropped = Math.max(0, size.toString(2).length - 50);
    const kept = size >> BigInt(dropped), sticky = kept << BigInt(dropped) === size ? 0n : 1n;
    return (sum < 0n ? -1 : 1) * Number(kept | sticky) * 2 ** (dropped - 64); // which F32 rounds
  });
}

function product(numbers) {
  return numbers.reduce((result, n) => result * n, 1);
}

/** CRC-32 as zlib has it, in 8 hexadecimal digits (1.4). */
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 255];
  return (~crc >>> 0).toString(16).padStart(8, "0");
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = (byte >>> 1) ^ (byte & 1 ? 0xedb88320 : 0);
  return byte;
});

function check(fine, problem) {
  if (!fine) throw new Error(problem);
}

if (globalThis.process?.argv[1]?.endsWith("read_packed.mjs")) {
  const { readFileSync } = await import("node:fs");
  for (const [name, { kind, shape, levels, weights }] of readPacked(readFileSync(process.argv[2])).layers) {
    console.log(`${name}: ${kind} [${shape}], begins with ${(levels ?? weights).slice(0, 6).join(" ")}`);
  }
}
