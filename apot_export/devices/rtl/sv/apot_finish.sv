// What becomes of a complete sum. One lane; the words of its channel's record arrive one a step.
//
// MODE 1: quantization. Word 0 has the direction in bit 0, and every other one is a threshold t:
//     the result is LEVELS[n], n being how many are passed: sum >= t, or sum < t where it is 1.
// MODE 2: requantization, (m * sum + b) >> SHIFT, by long multiplication: word i has bit i of the
//     multiplier m in bit 0 and bit i of the offset b in bit 1, both in two's complement of WORDS
//     bits, the highest bit first.
module apot_finish #(
    parameter int MODE = 1,
    parameter int SUM_BITS = 16,
    parameter int WORD_BITS = 16,
    parameter int WORDS = 1,  // of a record
    parameter int SHIFT = 0,
    parameter int RESULT_BITS = 16,
    parameter bit [WORDS*RESULT_BITS-1:0] LEVELS = '0  // level 0 lowest
) (
    input logic clk,
    input logic step,
    input logic first,  // word of the record
    input logic signed [WORD_BITS-1:0] word,
    input logic signed [SUM_BITS-1:0] sum,
    output logic [RESULT_BITS-1:0] result
);
    if (MODE == 1) begin : quantize
        localparam int COUNT_BITS = $clog2(WORDS + 1);
        localparam int WIDE_BITS = SUM_BITS > WORD_BITS ? SUM_BITS : WORD_BITS;
        logic [COUNT_BITS-1:0] count;
        logic falling, below;
        assign below = WIDE_BITS'(sum) < WIDE_BITS'(word);
        always_ff @(posedge clk)
            if (step && first) begin
                count <= '0;
                falling <= word[0];
            end else if (step) count <= count + COUNT_BITS'(below == falling);
        for (genvar i = 0; i < WORDS; i++) begin : entries
            logic [RESULT_BITS-1:0] level, chosen;
            assign level = LEVELS[RESULT_BITS*i+:RESULT_BITS] & {RESULT_BITS{count == COUNT_BITS'(i)}};
            if (i == 0) assign chosen = level;
            else assign chosen = entries[i-1].chosen | level;
        end
        assign result = entries[WORDS-1].chosen;
    end else begin : requantize
        localparam int USED_BITS = RESULT_BITS + SHIFT;
        localparam int SCALED_BITS = USED_BITS > SUM_BITS ? USED_BITS : SUM_BITS;
        /* verilator lint_off UNUSEDSIGNAL */ // bits above the result, which is proven to fit
        logic signed [SCALED_BITS-1:0] scaled, added;
        /* verilator lint_on UNUSEDSIGNAL */
        assign added = SCALED_BITS'(sum) & {SCALED_BITS{word[0]}};
        always_ff @(posedge clk)
            if (step && first) scaled <= {SCALED_BITS{word[1]}} - added;
            else if (step) scaled <= {scaled[SCALED_BITS-2:0], word[1]} + added;
        assign result = scaled[SHIFT+:RESULT_BITS];
    end
endmodule
