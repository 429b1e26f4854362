package main

import . "github.com/mmcloughlin/avo/build"

func pause() {
	text("pause", "()", "[Pause].")
	PAUSE()
	RET()
}
