// What a reader of packed files must reject (FORMAT.md, section 5): JSON, members, graphs and shapes.
// Numbers in brackets are sections of FORMAT.md. `read_packed.mjs` uses it; neither has dependencies.

const LARGEST = 2 ** 31 - 1;

/** The file breaks a rule of the format. */
export class PackedFileError extends Error {}

export function check(fine, problem) {
  if (!fine) throw new PackedFileError(problem);
}

export function product(numbers) {
  return numbers.reduce((result, n) => result * n, 1);
}

// --- Limits (5.1) -------------------------------------------------------------------------------

const FIXED_MEMORY = 2 ** 28, MEMORY_OF_A_BYTE = 2 ** 8, MOST_MEMORY = 2 ** 34;

/** Bytes of memory for each of what a file asks for, and whether a larger file may ask for more. */
const ASKED = {
  "weights": [16, true],
  "entries of codebooks and of activation quantizers' tables": [8, false],
  "bytes of JSON": [32, false],
  "JSON values": [1024, false],
};
export const [WEIGHTS, TABLE_ENTRIES, JSON_BYTES, JSON_VALUES] = Object.keys(ASKED);

/** What one file may ask for; `maxMemory` replaces what follows from its size. */
export class Budget {
  constructor(fileBytes, maxMemory) {
    this.fixed = maxMemory ?? FIXED_MEMORY;
    this.growing = maxMemory ?? Math.min(FIXED_MEMORY + MEMORY_OF_A_BYTE * fileBytes, MOST_MEMORY);
    this.taken = {};
  }

  /** Add to what the file has asked for, before any memory is taken for it. */
  take(kind, count, where) {
    const [size, grows] = ASKED[kind], most = Math.floor((grows ? this.growing : this.fixed) / size);
    this.taken[kind] = (this.taken[kind] ?? 0) + count;
    check(this.taken[kind] <= most, `${where}: more than ${most} ${kind}; if you trust the file, give a maxMemory`);
  }
}

// --- JSON (1.2) ---------------------------------------------------------------------------------

/** A number with a fraction or an exponent, which is no integer even if it is whole (2.1). */
class Decimal {
  constructor(value) {
    this.value = value;
  }
}

/** Parse a JSON object, as Maps: names of any characters are possible, none may occur twice. */
export function parse(text, where) {
  try {
    JSON.parse(text); // so the tokens below are in order
  } catch (error) {
    throw new PackedFileError(`${where} is no JSON: ${error.message}`);
  }
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[[\]{}:,]|[^\s[\]{}:,"]+/g);
  let at = 0;
  const items = (end, add) => {
    for (; tokens[at] !== end; at += tokens[at] === "," ? 1 : 0) add();
    at++;
  };
  const value = (depth) => {
    const token = tokens[at++];
    check(depth <= 32 || !"[{".includes(token), `${where}: more than 32 arrays and objects inside each other`);
    if (token === "[") {
      const array = [];
      items("]", () => array.push(value(depth + 1)));
      return array;
    }
    if (token === "{") {
      const members = new Map();
      items("}", () => {
        const name = JSON.parse(tokens[at]);
        checkText(name, where);
        check(!members.has(name), `${where} repeats the name ${name}`);
        at += 2;
        members.set(name, value(depth + 1));
      });
      return members;
    }
    const scalar = JSON.parse(token);
    if (typeof scalar === "string") checkText(scalar, where);
    return typeof scalar === "number" && /[.eE]/.test(token) ? new Decimal(scalar) : scalar;
  };
  const result = value(1);
  check(result instanceof Map, `${where} is no JSON object`);
  return result;
}

function checkText(text, where) {
  check(!/\p{Surrogate}/u.test(text), `${where} has half a surrogate pair`);
}

// --- Members (2) --------------------------------------------------------------------------------

const integer = (low, high = LARGEST) => (v) => Number.isInteger(v) && low <= v && v <= high;
const array = (item, ...lengths) => (v) =>
  Array.isArray(v) && (!lengths.length || lengths.includes(v.length)) && v.every(item);

const KINDS = {
  array: array(() => true),
  bits: integer(1, 8),
  counts: (v) => array(integer(0))(v) && v.length <= 32,
  denominator: integer(1, 2 ** 23),
  digits: (v) => array(integer(0))(v) && 2 <= v.length && v.length <= 16,
  dtype: (v) => v === "U8" || v === "F32",
  extents: (v) => array(integer(1))(v) && v.length <= 32,
  flag: (v) => typeof v === "boolean",
  image: array(integer(1), 3),
  integer: integer(0),
  margin: array(integer(0), 2),
  null: (v) => v === null,
  number: (v) => Number.isFinite(v instanceof Decimal ? v.value : v),
  object: (v) => v instanceof Map,
  offsets: array(integer(0, Number.MAX_SAFE_INTEGER), 2),
  pair: array(integer(1), 2),
  positive: integer(1),
  run: array(integer(0), 2),
  shape: array(integer(1), 2, 4),
  tables: array(array(integer(-LARGEST))),
  tensor: (v) => array(integer(1))(v) && v.length <= 4,
  text: (v) => typeof v === "string",
  texts: array((v) => typeof v === "string"),
};

const DEFAULTS = {
  stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1, scale: 1, bias: 0, axis: 1, value: 0,
  count_bits: 3, position_major: false, terms: 0, further_outputs: [],
};

/** Members as `name:kind`; a `?` marks those that may be left out, a `|` separates kinds. */
export const RECORDS = {
  tensor: "dtype:dtype shape:tensor data_offsets:offsets",
  network: "input:object output:text further_outputs?:texts codebooks:array layers:object nodes:array",
  input: "name:text shape:image",
  codebook: "tables:tables denominator:denominator signed:flag",
  activation: "codebook:integer alpha:number input_denominator?:denominator",
  float: "kind:text",
  coded: "kind:text shape:shape codebook:integer values:run step:number alpha?:number|null " +
    "activation?:object|null storage?:object|null scales?:run|null",
  planes: "kind:text shape:shape group_size:positive count_bits?:bits position_major?:flag " +
    "terms?:integer coordinates?:run|null",
  digits: "digits:digits",
  entropy: "entropy:pair",
};

/** Check an object against a record; return its members, with defaults for those left out. */
export function members(value, where, record) {
  check(value instanceof Map, `${where} is no JSON object`);
  const result = {}, known = new Set();
  for (const member of record.split(" ").filter(Boolean)) {
    const [stated, kinds] = member.split(":"), name = stated.replace("?", "");
    known.add(name);
    const found = value.get(name);
    check(found !== undefined || stated !== name, `${where} lacks ${name}`);
    const fine = found === undefined || kinds.split("|").some((kind) => KINDS[kind](found));
    check(fine, `${where}: ${name} must be ${kinds.replace("|", " or ")}`);
    result[name] = found instanceof Decimal ? found.value : found ?? DEFAULTS[name] ?? null;
  }
  for (const name of value.keys()) check(known.has(name), `${where} must not have ${name}`);
  return result;
}

// --- The graph (2.4, 4) -------------------------------------------------------------------------

const same = (a, b) => a.length === b.length && a.every((extent, i) => extent === b[i]);

function windows([, ...image], reach, stride, padding) {
  const extents = image.map((n, i) => Math.floor((n + 2 * padding[i] - reach[i]) / stride[i]) + 1);
  check(Math.min(...extents) >= 1, "a window is larger than its image");
  return extents;
}

function planar(shape) {
  check(shape.length === 3, "it reads [C, H, W]");
  return shape;
}

function pooled({ kernel, stride, padding = [0, 0] }, [x]) {
  check(padding.every((n, i) => n < kernel[i]), "the padding is not less than the kernel");
  return [planar(x)[0], ...windows(x, kernel, stride, padding)];
}

function spread(_, [a, b]) {
  const fine = a.length === b.length && a.every((n, i) => n === b[i] || n === 1 || b[i] === 1);
  check(fine, "the operands have other shapes");
  return a.map((n, i) => Math.max(n, b[i]));
}

function convolved({ stride, padding, dilation, groups }, [x], { shape }) {
  check(shape.length === 4, "the layer's weights have no kernel");
  const [outputs, inputs, ...kernel] = shape;
  check(planar(x)[0] === groups * inputs, "the channels are not those of the weights");
  check(outputs % groups === 0, "the groups do not divide the outputs");
  return [outputs, ...windows(x, kernel.map((k, i) => (k - 1) * dilation[i] + 1), stride, padding)];
}

function joined({ axis }, inputs) {
  check(axis <= inputs[0].length, "there is no such axis");
  const rest = (shape) => shape.map((n, i) => (i === axis - 1 ? 0 : n));
  check(inputs.every((shape) => same(rest(shape), rest(inputs[0]))), "the inputs have other shapes");
  const total = inputs.reduce((sum, shape) => sum + shape[axis - 1], 0);
  return inputs[0].map((n, i) => (i === axis - 1 ? total : n));
}

function kept(_, [x]) {
  return x;
}

const FUNCTIONS = ["sigmoid", "tanh", "exp", "log", "erf", "sqrt", "reciprocal", "abs"];

/** Members, the shape of the result, and the number of inputs if it is not 1. */
const OPERATIONS = new Map(Object.entries({
  Convolution: {
    record: "layer:text stride?:pair padding?:margin dilation?:pair groups?:positive",
    shape: convolved,
  },
  Linear: {
    record: "layer:text",
    shape: (_, [x], { shape }) => {
      check(shape.length === 2 && same(x, [shape[1]]), "the input is not that of the weights");
      return [shape[0]];
    },
  },
  QuantizeActivation: { record: "layer:text", shape: kept },
  ScaleBias: {
    record: "scale?:number|run bias?:number|run",
    shape: (parts, [x]) => {
      for (const part of [parts.scale, parts.bias]) {
        if (Array.isArray(part)) check(part[1] - part[0] === x[0], "not one number a channel");
        else check(Number.isFinite(Math.fround(part)), "a number is not finite as F32");
      }
      return x;
    },
  },
  Add: { record: "", inputs: 2, shape: spread },
  Relu: { record: "", shape: kept },
  Clip: {
    record: "minimum:number maximum:number",
    shape: ({ minimum, maximum }, [x]) => {
      check(minimum <= maximum, "the minimum is above the maximum");
      return x;
    },
  },
  Concat: { record: "axis?:positive", inputs: null, shape: joined },
  Upsample: {
    record: "scale:pair",
    shape: ({ scale }, [x]) => [planar(x)[0], x[1] * scale[0], x[2] * scale[1]],
  },
  MaxPool: { record: "kernel:pair stride:pair padding?:margin", shape: pooled },
  AveragePool: { record: "kernel:pair stride:pair", shape: pooled },
  GlobalAveragePool: { record: "", shape: (_, [x]) => [planar(x)[0], 1, 1] },
  Flatten: { record: "", shape: (_, [x]) => [product(x)] },
  Multiply: { record: "", inputs: 2, isNew: true, shape: spread },
  Elementwise: {
    record: "function:text", isNew: true,
    shape: (node, [x]) => {
      check(FUNCTIONS.includes(node.function), `there is no function ${node.function}`);
      return x;
    },
  },
  Reduce: {
    record: "function:text axes:extents", isNew: true,
    shape: (node, [x]) => {
      check(["mean", "max"].includes(node.function), `there is no reduction ${node.function}`);
      const fine = node.axes.every((axis) => axis <= x.length) && new Set(node.axes).size === node.axes.length;
      check(fine, "the axes are not its input's");
      return x.map((n, i) => (node.axes.includes(i + 1) ? 1 : n));
    },
  },
  Slice: {
    record: "start:counts stop:extents step:extents", isNew: true,
    shape: ({ start, stop, step }, [x]) => {
      check([start, stop, step].every((one) => one.length === x.length), "the axes are not its input's");
      check(stop.every((end, i) => end <= x[i]), "it ends behind its input");
      return x.map((_, i) => Math.max(0, Math.ceil((stop[i] - start[i]) / step[i])));
    },
  },
  Pad: {
    record: "before:counts after:counts value?:number|null", isNew: true,
    shape: ({ before, after }, [x]) => {
      check([before, after].every((one) => one.length === x.length), "the axes are not its input's");
      return x.map((n, i) => n + before[i] + after[i]);
    },
  },
  Reshape: {
    record: "shape:extents", isNew: true,
    shape: ({ shape }, [x]) => {
      check(product(shape) === product(x), "the shape has another number of numbers");
      return shape;
    },
  },
  Transpose: {
    record: "order:extents", isNew: true,
    shape: ({ order }, [x]) => {
      check(same([...order].sort((a, b) => a - b), x.map((_, i) => i + 1)), "the axes are not its input's");
      return order.map((axis) => x[axis - 1]);
    },
  },
  Resample: {
    record: "rows:run columns:run", isNew: true,
    shape: ({ rows, columns }, [x]) => {
      planar(x);
      const extents = [rows, columns].map(([begin, end], i) => (end - begin) / x[i + 1]);
      check(extents.every(Number.isInteger), "rows or columns are not whole");
      return [x[0], ...extents];
    },
  },
}));

/** Check nodes and outputs; `take` is told every run of `parameters` that a node has. */
export function checkGraph(network, layers, isOld, take) {
  const { name, shape } = members(network.input, "input", RECORDS.input);
  const shapes = new Map([[name, shape]]), kinds = new Map([[name, "float"]]);
  let before = name;
  for (const entry of network.nodes) {
    check(entry instanceof Map, "a node is no JSON object");
    const operation = OPERATIONS.get(entry.get("operation"));
    check(operation, `there is no operation ${entry.get("operation")}`);
    const record = `name:text operation:text inputs?:texts ${operation.record}`;
    const node = members(entry, `node ${entry.get("name")}`, record);
    for (const part of ["scale", "bias", "rows", "columns"]) {
      if (Array.isArray(node[part]) && node.operation !== "Upsample") take(node[part], node.name);
    }
    const inputs = node.inputs ?? [before];
    check(!shapes.has(node.name), `two values are called ${node.name}`);
    for (const input of inputs) check(shapes.has(input), `${node.name} reads ${input}, which is not there`);
    const count = operation.inputs === null ? Math.max(1, inputs.length) : operation.inputs ?? 1;
    check(inputs.length === count, `${node.name} reads ${inputs.length} values`);
    const read = inputs.map((input) => shapes.get(input)), layer = layers.get(node.layer);
    check(layer || node.layer === undefined, `${node.name}: there is no layer ${node.layer}`);
    const { accepted, produced } = kindsOf(node, layer);
    for (const input of inputs) {
      check(accepted.includes(kinds.get(input)), `${node.name} cannot read ${kinds.get(input)}`);
    }
    const result = shapeOf(node, operation, read, layer);
    const added = node.operation === "Add" && !same(read[0], read[1]);
    const isNew = operation.isNew || added || (node.operation === "Concat" && node.axis !== 1);
    check(!(isOld && isNew), `${node.name} needs version 3`);
    shapes.set(node.name, result);
    kinds.set(node.name, produced);
    before = node.name;
  }
  for (const [value, extents] of shapes) {
    check(Math.min(...extents) >= 1 && product(extents) <= LARGEST, `${value} is empty or too large`);
  }
  for (const output of [network.output, ...network.further_outputs]) {
    check(kinds.get(output) === "float", `the output ${output} is no value, or not of floats`);
  }
  check(!(isOld && network.further_outputs.length), "several outputs need version 3");
  check(!(isOld && [...layers.values()].some((layer) => layer.scales)), "scales of outputs need version 3");
}

function shapeOf(node, operation, read, layer) {
  try {
    return operation.shape(node, read, layer);
  } catch (error) {
    if (error instanceof PackedFileError) error.message = `${node.name}: ${error.message}`;
    throw error;
  }
}

/** The kinds of values that a node reads, and the one that it produces (4.1). */
function kindsOf({ name, operation, layer: layerName }, layer) {
  const levels = `levels of ${layerName}`;
  if (operation === "QuantizeActivation") {
    check(layer.activation, `${name}: the layer's input is not quantized`);
    return { accepted: ["float"], produced: levels };
  }
  if (operation === "ScaleBias") return { accepted: ["float", "accumulators"], produced: "float" };
  return layer?.activation ? { accepted: [levels], produced: "accumulators" } : { accepted: ["float"], produced: "float" };
}
