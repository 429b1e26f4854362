package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// usage is the most memory that a process had at a time, in bytes.
type usage struct {
	anonymous int64 // its own
	peak      int64 // resident in all, with the pages of files that it has mapped
}

// watch runs a program and looks at its memory, which takes Linux.
func watch(program string, args ...string) (time.Duration, usage, error) {
	var u usage
	c := exec.Command(program, args...)
	c.Stderr = os.Stderr
	start := time.Now()
	if err := c.Start(); err != nil {
		return 0, u, err
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err == nil && u.peak == 0 {
				err = fmt.Errorf("the memory of process %d could not be read", c.Process.Pid)
			}
			return time.Since(start), u, err
		case <-tick.C:
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.Pid))
			if err != nil {
				continue // it has just ended
			}
			u.anonymous = max(u.anonymous, field(status, "RssAnon:"))
			u.peak = max(u.peak, field(status, "VmHWM:"))
		}
	}
}

// field returns a number of bytes from a process's status.
func field(status []byte, name string) int64 {
	_, rest, _ := strings.Cut(string(status), name)
	words := strings.Fields(rest)
	if len(words) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(words[0], 10, 64)
	return n << 10
}
