// Run a model in onnxruntime-web's WebAssembly backend: node run_web.mjs MODEL N,C,H,W FOLDER
// Reads FOLDER/images.bin (float32) and writes every output as a .npy file into FOLDER.
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const [model, shape, folder] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(model), {
  executionProviders: ["wasm"],
});
const bytes = readFileSync(`${folder}/images.bin`);
const images = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
const input = new ort.Tensor("float32", images, shape.split(",").map(Number));
const outputs = await session.run({ [session.inputNames[0]]: input });
const types = {
  ...{ float32: "<f4", float64: "<f8", int64: "<i8", int32: "<i4", int16: "<i2", uint16: "<u2" },
  ...{ uint8: "|u1", int8: "|i1", bool: "|b1" },
};
for (const [name, tensor] of Object.entries(outputs)) {
  const header = `{'descr': '${types[tensor.type]}', 'fortran_order': False, 'shape': (${tensor.dims.join(", ")},)}`;
  const length = Math.ceil((10 + header.length + 1) / 64) * 64 - 10;
  const head = Buffer.from("\x93NUMPY\x01\x00\x00\x00" + header.padEnd(length - 1) + "\n", "latin1");
  head.writeUInt16LE(length, 8);
  const data = tensor.data;
  const body = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  writeFileSync(`${folder}/${name.replaceAll("/", "_")}@.npy`, Buffer.concat([head, body]));
}
