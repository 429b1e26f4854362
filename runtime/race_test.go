//go:build race

package runtime_test

// raceDetector takes memory of its own.
const raceDetector = true
