// A line of processing elements: one x, LANES codes, LANES sums. Lane 0 has the lowest bits.
module apot_line #(
    parameter int LANES = 4,
    parameter int X_BITS = 4,
    parameter bit X_SIGNED = 0,
    parameter int CODE_BITS = 4,
    parameter bit CODE_SIGNED = 1,
    parameter int FIELDS = 2,
    parameter bit [8*FIELDS+7:0] FIELD_LOW = {8'd3, 8'd2, 8'd0},
    parameter int ENTRIES = 4,
    parameter bit [8*ENTRIES*FIELDS-1:0] TERMS = {8'h00, 8'h00, 8'h41, 8'h00, 8'h40, 8'h42, 8'h43, 8'h00},
    parameter int PRODUCT_BITS = 9,
    parameter int SUM_BITS = 16
) (
    input logic clk,
    input logic step,
    input logic first,
    input logic [X_BITS-1:0] x,
    input logic [LANES*CODE_BITS-1:0] codes,
    output logic [LANES*SUM_BITS-1:0] sums
);
    for (genvar i = 0; i < LANES; i++) begin : lanes
        apot_pe #(
            .X_BITS(X_BITS), .X_SIGNED(X_SIGNED), .CODE_BITS(CODE_BITS), .CODE_SIGNED(CODE_SIGNED),
            .FIELDS(FIELDS), .FIELD_LOW(FIELD_LOW), .ENTRIES(ENTRIES), .TERMS(TERMS),
            .PRODUCT_BITS(PRODUCT_BITS), .SUM_BITS(SUM_BITS)
        ) pe (
            .clk, .step, .first, .x,
            .code(codes[CODE_BITS*i+:CODE_BITS]),
            .sum(sums[SUM_BITS*i+:SUM_BITS])
        );
    end
endmodule
