// An export in onnxruntime-web: its models, how pictures become their input, and its samples.
// Works in browsers and in node. Numbers in brackets are sections of FORMAT.md.

import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1; // more threads need a page that is isolated from other origins
const INTEGER = "model.integer.onnx";

/**
 * Open a model of an export: `model.onnx` or `model.integer.onnx`. `read` returns the bytes of a file of
 * the export, as a promise of a Uint8Array.
 */
export async function openExport(read, file) {
  const manifest = JSON.parse(new TextDecoder().decode(await read("manifest.json")));
  if (!manifest.files[file]) throw new Error(`the export has no ${file}`);
  if (!manifest.interface) throw new Error("manifest.json has no interface: convert the network again");
  const session = await ort.InferenceSession.create(await read(file), { executionProviders: ["wasm"] });
  return new Export(manifest, file, read, session);
}

class Export {
  constructor(manifest, file, read, session) {
    const { preprocessing, classes, ...values } = manifest.interface;
    const { inputs: [input], outputs: [output] } = file === INTEGER ? values.integer : values;
    Object.assign(this, { manifest, file, read, session, preprocessing, classes, input, output });
  }

  /** Run one input, a typed array [C, H, W] of the model's type; return its logits as numbers. */
  async run(values) {
    const tensor = new ort.Tensor(this.input.type, values, [1, ...this.input.shape]);
    const { [this.output.name]: logits } = await this.session.run({ [this.input.name]: tensor });
    return Array.from(logits.data, Number);
  }

  /** Return the input that a picture is: RGBA bytes as of a canvas, in the size of the network. */
  inputOf({ data, width, height }) {
    const { type, shape: [channels, ...size] } = this.input, { fround } = Math;
    if (!this.preprocessing) throw new Error("this export does not say how pictures become its input");
    if (`${[height, width]}` !== `${size}`) throw new Error(`${height} x ${width} pixels, not ${size.join(" x ")}`);
    const { channels: order, range: [, white], mean, std } = this.preprocessing; // [2.6]
    const count = height * width, pixels = type === "uint8";
    const values = new (pixels ? Uint8Array : Float32Array)(channels * count);
    for (let place = 0; place < count; place++) {
      const colours = data.subarray(4 * place, 4 * place + 3);
      const levels = order === "grey" ? [brightness(colours)] : colours;
      levels.forEach((level, channel) => {
        const light = fround(level / 255); // the pixel in its range, by the range
        const value = fround(fround(light - fround(mean[channel])) / fround(std[channel]));
        values[channel * count + place] = pixels ? Math.round(light * white) : value;
      });
    }
    return values;
  }

  /** Return the samples of the export: input, pixels where they are known, label and expected logits. */
  async samples() {
    const { inputs, images, labels, logits, integer_logits: integers } = readNpz(await this.read("sample.npz"));
    const expected = this.file === INTEGER ? integers : logits, pixels = this.input.type === "uint8";
    return Array.from({ length: inputs.shape[0] }, (_, index) => ({
      input: pixels ? channelsFirst(row(images, index), images.shape[3]) : row(inputs, index),
      picture: images && pictureOf(row(images, index), images.shape, this.preprocessing?.range[1] ?? 255),
      label: labels && Number(labels.data[index]),
      expected: Array.from(row(expected, index), Number),
    }));
  }
}

/** Return how bright a colour is, as Pillow computes it. */
function brightness([red, green, blue]) {
  return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16;
}

function row({ data, shape: [rows] }, index) {
  const length = data.length / rows;
  return data.slice(index * length, (index + 1) * length);
}

function channelsFirst(pixels, channels) {
  const count = pixels.length / channels;
  return pixels.map((_, place) => pixels[(place % count) * channels + Math.floor(place / count)]);
}

/** Return pixels [H, W, C] as RGBA bytes. */
function pictureOf(pixels, [, height, width, channels], white) {
  const data = new Uint8ClampedArray(4 * height * width);
  for (let place = 0; place < height * width; place++) {
    for (let colour = 0; colour < 3; colour++) {
      data[4 * place + colour] = (pixels[place * channels + (colour % channels)] * 255) / white;
    }
    data[4 * place + 3] = 255;
  }
  return { data, width, height };
}

// --- Arrays of numpy ------------------------------------------------------------------------------

const TYPES = { "|u1": Uint8Array, "<f4": Float32Array, "<i8": BigInt64Array };

/** Return the arrays of an .npz file that is not compressed, by name: `{ data, shape }`. */
function readNpz(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22; // the last record of a zip archive says where its list of files is
  while (view.getUint32(end, true) !== 0x06054b50) end--;
  const arrays = {};
  let entry = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    const [name, extra, comment] = [28, 30, 32].map((at) => view.getUint16(entry + at, true));
    const [size, start] = [24, 42].map((at) => view.getUint32(entry + at, true));
    const title = new TextDecoder().decode(bytes.subarray(entry + 46, entry + 46 + name));
    const data = start + 30 + view.getUint16(start + 26, true) + view.getUint16(start + 28, true);
    const array = readNpy(bytes.slice(data, data + size));
    if (array) arrays[title.slice(0, -".npy".length)] = array;
    entry += 46 + name + extra + comment;
  }
  return arrays;
}

function readNpy(bytes) {
  const start = 10 + new DataView(bytes.buffer).getUint16(8, true);
  const header = new TextDecoder().decode(bytes.subarray(10, start));
  const Kind = TYPES[/'descr': '([^']+)'/.exec(header)[1]]; // text has none
  const sizes = /'shape': \(([^)]*)\)/.exec(header)[1].match(/\d+/g) ?? [];
  return Kind && { data: new Kind(bytes.buffer.slice(start)), shape: sizes.map(Number) };
}
