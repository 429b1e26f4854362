package simd

// A tile is the piece of a product that one call of the innermost loop
// computes, its sums held in registers throughout. The tile's size decides
// how operands are packed.
const (
	portableRows = 2
	portableCols = 4
)

// TileRows returns the number of rows of a tile.
func TileRows[T Number]() int {
	rows, _ := tileSize[T]()
	return rows
}

// TileCols returns the number of columns of a tile, the unit in which the
// columns of a packed operand may be cut.
func TileCols[T Number]() int {
	_, cols := tileSize[T]()
	return cols
}

// maxTile bounds the elements of a tile.
const maxTile = 6 * 16

// tiles goes down a panel of columns: it multiplies panels of rows, which lie
// one behind the other, by it. The depth is at least 1; for every row i
//
//	c[i·stride+j] (+)= Σ_l a[(i/TileRows·depth+l)·TileRows + i%TileRows] · b[l·TileCols+j]   for l = 0, 1, …
func tiles[T Number](rows, depth int, a, b, c []T, stride int, add bool) {
	if tilesAVX2(rows, depth, a, b, c, stride, add) {
		return
	}
	for ; rows > 0; rows -= portableRows {
		tilePortable(rows, depth, a, b, c, stride, add)
		if rows > portableRows {
			a, c = a[portableRows*depth:], c[portableRows*stride:]
		}
	}
}

// tilePortable computes the first tile in portable Go. Two by four sums are what the
// compiler keeps in registers with their factors; four steps at a time leave
// little of the loop's own cost.
func tilePortable[T Number](rows, depth int, a, b, c []T, stride int, add bool) {
	var c00, c01, c02, c03, c10, c11, c12, c13 T
	l := depth
	for ; l >= 4; l -= 4 {
		p, q := (*[8]T)(a), (*[16]T)(b)
		x, y := p[0], p[1]
		c00 += x * q[0]
		c10 += y * q[0]
		c01 += x * q[1]
		c11 += y * q[1]
		c02 += x * q[2]
		c12 += y * q[2]
		c03 += x * q[3]
		c13 += y * q[3]
		x, y = p[2], p[3]
		c00 += x * q[4]
		c10 += y * q[4]
		c01 += x * q[5]
		c11 += y * q[5]
		c02 += x * q[6]
		c12 += y * q[6]
		c03 += x * q[7]
		c13 += y * q[7]
		x, y = p[4], p[5]
		c00 += x * q[8]
		c10 += y * q[8]
		c01 += x * q[9]
		c11 += y * q[9]
		c02 += x * q[10]
		c12 += y * q[10]
		c03 += x * q[11]
		c13 += y * q[11]
		x, y = p[6], p[7]
		c00 += x * q[12]
		c10 += y * q[12]
		c01 += x * q[13]
		c11 += y * q[13]
		c02 += x * q[14]
		c12 += y * q[14]
		c03 += x * q[15]
		c13 += y * q[15]
		a, b = a[8:], b[16:]
	}
	for ; l > 0; l-- {
		p, q := (*[2]T)(a), (*[4]T)(b)
		x, y := p[0], p[1]
		c00 += x * q[0]
		c10 += y * q[0]
		c01 += x * q[1]
		c11 += y * q[1]
		c02 += x * q[2]
		c12 += y * q[2]
		c03 += x * q[3]
		c13 += y * q[3]
		a, b = a[2:], b[4:]
	}
	store(c, c00, c01, c02, c03, add)
	if rows > 1 {
		store(c[stride:], c10, c11, c12, c13, add)
	}
}

func store[T Number](c []T, x0, x1, x2, x3 T, add bool) {
	r := (*[4]T)(c)
	if add {
		x0, x1, x2, x3 = r[0]+x0, r[1]+x1, r[2]+x2, r[3]+x3
	}
	*r = [4]T{x0, x1, x2, x3}
}
