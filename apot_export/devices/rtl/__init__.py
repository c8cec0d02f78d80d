"""SystemVerilog of coded layers: memory images, a shift-add engine, testbenches."""
