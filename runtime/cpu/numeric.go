package cpu

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// The operators of this package that compare or add up elements and are not
// elementwise, with every numeric type.
func init() {
	defineNumeric[float32]()
	defineNumeric[float64]()
	defineNumeric[int8]()
	defineNumeric[int16]()
	defineNumeric[int32]()
	defineNumeric[int64]()
	defineNumeric[uint8]()
	defineNumeric[uint16]()
	defineNumeric[uint32]()
	defineNumeric[uint64]()

	elementwise["NonZero"][onnx.Bool] = bindNonZero[uint8] // a file may hold bytes other than 0 and 1
	elementwise["Unique"][onnx.Bool] = bindUnique(tensor.Of[uint8])
	elementwise["Unique"][onnx.String] = bindUnique(stringsOf)
}

func defineNumeric[T number]() {
	define[T]("ScatterElements", bindReducingScatter[T])
	define[T]("ScatterND", bindReducingScatter[T])
	define[T]("TopK", bindTopK[T])
	define[T]("ArgMax", bindArgument[T])
	define[T]("ArgMin", bindArgument[T])
	define[T]("Hardmax", bindHardmax[T])
	define[T]("CumSum", bindCumulative[T])
	define[T]("CumProd", bindCumulative[T])
	define[T]("Range", bindRange[T])
	define[T]("OneHot", bindOneHot[T])
	define[T]("Col2Im", bindCol2Im[T])
	define[T]("NonZero", bindNonZero[T])
	define[T]("Unique", bindUnique(tensor.Of[T]))
}
