// A processing element: at every step it adds x times the weight of a code to its sum.
module apot_pe #(
    parameter int X_BITS = 4,
    parameter bit X_SIGNED = 0,
    parameter int CODE_BITS = 4,
    parameter bit CODE_SIGNED = 1,
    parameter int FIELDS = 2,
    parameter bit [8*FIELDS+7:0] FIELD_LOW = {8'd3, 8'd2, 8'd0},
    parameter int ENTRIES = 4,
    parameter bit [8*ENTRIES*FIELDS-1:0] TERMS = {8'h00, 8'h00, 8'h41, 8'h00, 8'h40, 8'h42, 8'h43, 8'h00},
    parameter int PRODUCT_BITS = 9,
    parameter int SUM_BITS = 16  // proven to hold every partial sum
) (
    input logic clk,
    input logic step,
    input logic first,  // the sum begins with this product
    input logic [X_BITS-1:0] x,
    input logic [CODE_BITS-1:0] code,
    output logic signed [SUM_BITS-1:0] sum
);
    logic negative;
    logic signed [PRODUCT_BITS-1:0] product;
    apot_decoder #(
        .X_BITS(X_BITS), .X_SIGNED(X_SIGNED), .CODE_BITS(CODE_BITS), .CODE_SIGNED(CODE_SIGNED),
        .FIELDS(FIELDS), .FIELD_LOW(FIELD_LOW), .ENTRIES(ENTRIES), .TERMS(TERMS),
        .PRODUCT_BITS(PRODUCT_BITS)
    ) decoder (.x, .code, .negative, .product);

    // sum + product, or sum - product = sum + ~product + 1, by one adder: its bit 0 makes the carry.
    logic signed [SUM_BITS-1:0] kept, signed_product;
    /* verilator lint_off UNUSEDSIGNAL */ // bit 0
    logic [SUM_BITS:0] added;
    /* verilator lint_on UNUSEDSIGNAL */
    assign kept = sum & {SUM_BITS{!first}};
    assign signed_product = SUM_BITS'(product) ^ {SUM_BITS{negative}};
    assign added = {kept, 1'b1} + {signed_product, negative};
    always_ff @(posedge clk) if (step) sum <= added[SUM_BITS:1];
endmodule
