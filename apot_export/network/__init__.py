"""The network between a checkpoint and its artifacts: operations, layers and the graph."""

from __future__ import annotations

from apot_export.network.graph import CodedNetwork as CodedNetwork
from apot_export.network.graph import Network as Network
from apot_export.network.graph import Node as Node
from apot_export.network.graph import SourceNetwork as SourceNetwork
from apot_export.network.layers import ActivationQuantizer as ActivationQuantizer
from apot_export.network.layers import CodedLayer as CodedLayer
from apot_export.network.layers import EightBitWeights as EightBitWeights
from apot_export.network.layers import FloatLayer as FloatLayer
from apot_export.network.layers import Layer as Layer
from apot_export.network.layers import MultiBitWeights as MultiBitWeights
from apot_export.network.layers import PlaneLayer as PlaneLayer
from apot_export.network.layers import PowerOfTwoWeights as PowerOfTwoWeights
from apot_export.network.layers import SourceLayer as SourceLayer
from apot_export.network.layers import WeightQuantizer as WeightQuantizer
from apot_export.network.operations import Add as Add
from apot_export.network.operations import AveragePool as AveragePool
from apot_export.network.operations import Clip as Clip
from apot_export.network.operations import Concat as Concat
from apot_export.network.operations import Convolution as Convolution
from apot_export.network.operations import Elementwise as Elementwise
from apot_export.network.operations import Flatten as Flatten
from apot_export.network.operations import GlobalAveragePool as GlobalAveragePool
from apot_export.network.operations import Linear as Linear
from apot_export.network.operations import MaxPool as MaxPool
from apot_export.network.operations import Multiply as Multiply
from apot_export.network.operations import Operation as Operation
from apot_export.network.operations import Pad as Pad
from apot_export.network.operations import Pair as Pair
from apot_export.network.operations import QuantizeActivation as QuantizeActivation
from apot_export.network.operations import Reduce as Reduce
from apot_export.network.operations import Relu as Relu
from apot_export.network.operations import Resample as Resample
from apot_export.network.operations import Reshape as Reshape
from apot_export.network.operations import ScaleBias as ScaleBias
from apot_export.network.operations import SelfComputing as SelfComputing
from apot_export.network.operations import Slice as Slice
from apot_export.network.operations import Transpose as Transpose
from apot_export.network.operations import Upsample as Upsample
from apot_export.network.planes import Shape as Shape
