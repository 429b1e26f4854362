// Package rendezvous lets ranks in different processes find one another, tell
// each other a few bytes, and notice who has stopped. It is for engines such as
// NCCL that move data, but want to be told of each other first.
//
// Rank 0 serves the others over TCP, without encryption, on the address that
// the launcher gives to all.
package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fmoe-go/fmoe/runtime/comm"
)

// Meeting is one rank's end of a rendezvous. Goroutines may use it at the same
// time.
type Meeting struct {
	place   Place
	service *service // of rank 0
	client  *rpc.Client
	beat    time.Duration
	ended   chan struct{} // closed by Close
	closing sync.Once
	tasks   sync.WaitGroup
}

// Options are how a meeting tells of its rank.
type Options struct {
	// Timeout is how long Join waits for the other ranks.
	Timeout time.Duration
	// Beat is how often the others hear of this rank's progress.
	Beat time.Duration
	// Progress returns how many calls of each group this rank has started. It is
	// called by other goroutines.
	Progress func() map[string]int
	// Stopped is told of each other rank that stops, once. It is called by one
	// goroutine.
	Stopped func(Notice)
}

// Notice tells that a rank has stopped.
type Notice struct {
	Rank     int
	Closed   bool // after its last call
	Canceled bool // somebody told it to
	Blamed   []int
	Reason   string
	Progress map[string]int // how many calls of each group it has made
}

// Err returns why the rank stopped.
func (n Notice) Err() error {
	err := error(reason{n.Reason, n.Canceled})
	switch {
	case n.Closed:
		return comm.ErrClosed
	case len(n.Blamed) > 0:
		return &comm.RankError{Ranks: n.Blamed, Err: err}
	}
	return err
}

// reason is an error of another process.
type reason struct {
	text     string
	canceled bool
}

func (r reason) Error() string { return r.text }

func (r reason) Is(err error) bool { return r.canceled && err == context.Canceled }

// Join returns when all ranks have come, or fails and names those that have
// not.
func Join(ctx context.Context, p Place, o Options) (*Meeting, error) {
	m := &Meeting{place: p, beat: o.Beat, ended: make(chan struct{})}
	limited, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("time-out of %v", o.Timeout))
	defer cancel()
	if err := m.join(limited); err != nil {
		return nil, errors.Join(fmt.Errorf("rank %d of %d at %s: %w", p.Rank, p.Size, p.address(), err), m.Close())
	}
	m.tasks.Go(func() { m.listen(o.Stopped) })
	m.tasks.Go(func() { m.report(o.Progress) })
	return m, nil
}

func (m *Meeting) join(ctx context.Context) error {
	var conn net.Conn
	if m.place.Rank == 0 {
		own, other := net.Pipe()
		service, err := serve(m.place, other)
		if err != nil {
			return err
		}
		m.service, conn = service, own
	}
	for {
		if conn == nil {
			var err error
			if conn, err = m.dial(ctx); err != nil {
				return err
			}
		}
		m.client = rpc.NewClient(conn)
		err := m.call(ctx, "Join", Member{m.place.Rank, m.place.Size, m.place.Run}, &struct{}{})
		if err == nil {
			break
		}
		// The server of a run before may still be there, or end just now.
		var refused rpc.ServerError
		if ctx.Err() != nil || m.place.Rank == 0 || errors.As(err, &refused) && err.Error() != errOtherRun.Error() {
			return err
		}
		_ = m.client.Close() // it is of no use
		conn = nil
		if err := pause(ctx); err != nil {
			return err
		}
	}
	err := m.call(ctx, "All", struct{}{}, &struct{}{})
	if ctx.Err() == nil {
		return err
	}
	var absent []int
	if m.client.Call(serviceName+".Absent", struct{}{}, &absent) == nil && len(absent) > 0 {
		return &comm.RankError{Ranks: absent, Err: fmt.Errorf("did not come: %w", context.Cause(ctx))}
	}
	return context.Cause(ctx)
}

// dial waits for rank 0 to serve.
func (m *Meeting) dial(ctx context.Context) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", m.place.address())
		if err == nil {
			return conn, nil
		}
		if pause(ctx) != nil {
			return nil, &comm.RankError{Ranks: []int{0}, Err: fmt.Errorf("does not answer: %w, %w", context.Cause(ctx), err)}
		}
	}
}

// pause waits before another attempt.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(50 * time.Millisecond):
		return nil
	}
}

// call calls the server, and gives up when ctx is done.
func (m *Meeting) call(ctx context.Context, method string, argument, reply any) error {
	c := m.client.Go(serviceName+"."+method, argument, reply, make(chan *rpc.Call, 1))
	select {
	case <-c.Done:
		return c.Error
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-m.ended:
		return net.ErrClosed
	}
}

// Set gives a key a value, once.
func (m *Meeting) Set(ctx context.Context, key string, value []byte) error {
	return m.call(ctx, "Set", Entry{key, value}, &struct{}{})
}

// Get returns the value of a key when some rank has set it.
func (m *Meeting) Get(ctx context.Context, key string) (value []byte, err error) {
	err = m.call(ctx, "Get", key, &value)
	return value, err
}

// Behind returns the ranks among others that have not started so many calls of
// a group, or that nothing was heard of lately.
func (m *Meeting) Behind(ctx context.Context, group string, calls int, among []int) (late []int, err error) {
	err = m.call(ctx, "Behind", Call{group, calls, among, 4 * m.beat}, &late)
	return late, err
}

// Stop tells the other ranks that this one has stopped, and why.
func (m *Meeting) Stop(ctx context.Context, err error, progress map[string]int) error {
	n := Notice{Rank: m.place.Rank, Closed: errors.Is(err, comm.ErrClosed), Canceled: errors.Is(err, context.Canceled), Reason: err.Error(), Progress: progress}
	var cause *comm.RankError
	if errors.As(err, &cause) {
		n.Blamed, n.Reason = cause.Ranks, cause.Err.Error()
	}
	return m.call(ctx, "Stop", n, &struct{}{})
}

// Stopped waits until all ranks have stopped.
func (m *Meeting) Stopped(ctx context.Context) error {
	err := m.call(ctx, "Stopped", struct{}{}, &struct{}{})
	if ctx.Err() == nil {
		return err
	}
	var left []int
	if m.client.Call(serviceName+".Left", struct{}{}, &left) == nil && len(left) > 0 {
		return &comm.RankError{Ranks: left, Err: fmt.Errorf("did not close: %w", context.Cause(ctx))}
	}
	return context.Cause(ctx)
}

// listen hands over notices.
func (m *Meeting) listen(stopped func(Notice)) {
	for known := 0; ; {
		var notices []Notice
		if err := m.call(context.Background(), "Next", known, &notices); err != nil {
			select {
			case <-m.ended:
			default:
				stopped(Notice{Rank: 0, Reason: "has gone"})
			}
			return
		}
		known += len(notices)
		for _, n := range notices {
			if n.Rank != m.place.Rank {
				stopped(n)
			}
		}
	}
}

// report tells of progress again and again.
func (m *Meeting) report(progress func() map[string]int) {
	ticker := time.NewTicker(m.beat)
	defer ticker.Stop()
	for {
		select {
		case <-m.ended:
			return
		case <-ticker.C:
			if m.call(context.Background(), "Report", progress(), &struct{}{}) != nil {
				return
			}
		}
	}
}

// Close leaves the meeting; for the other ranks, one that did not stop before
// has gone. When rank 0 closes, the meeting is over.
func (m *Meeting) Close() (err error) {
	m.closing.Do(func() {
		close(m.ended)
		if m.client != nil {
			err = m.client.Close()
		}
		m.tasks.Wait()
		if m.service != nil {
			err = errors.Join(err, m.service.close())
		}
	})
	return err
}

// Place is what a process is told about all: its rank, and where to meet.
type Place struct {
	Rank, Size int
	Local      int    // the rank among those on the same machine
	Address    string // of rank 0's machine
	Port       string
	Run        string // the same for all ranks, and another one when a launcher starts them again
}

func (p Place) address() string { return net.JoinHostPort(p.Address, p.Port) }

// listen returns where rank 0 listens: on all of its addresses, since a
// machine's name may mean another one to itself, but for loopback.
func (p Place) listen() string {
	if ip := net.ParseIP(p.Address); p.Address == "localhost" || ip != nil && ip.IsLoopback() {
		return p.address()
	}
	return net.JoinHostPort("", p.Port)
}

// FromEnvironment reads what torchrun sets, and what Slurm does where RANK,
// WORLD_SIZE or LOCAL_RANK are missing. variable is [os.Getenv].
func FromEnvironment(variable func(string) string) (Place, error) {
	p := Place{Address: variable("MASTER_ADDR"), Port: variable("MASTER_PORT")}
	var missing []string
	for _, number := range []struct {
		to    *int
		names []string
	}{{&p.Rank, []string{"RANK", "SLURM_PROCID"}}, {&p.Size, []string{"WORLD_SIZE", "SLURM_STEP_NUM_TASKS"}}, {&p.Local, []string{"LOCAL_RANK", "SLURM_LOCALID"}}} {
		at := slices.IndexFunc(number.names, func(name string) bool { return variable(name) != "" })
		if at < 0 {
			missing = append(missing, number.names[0])
			continue
		}
		name := number.names[at]
		var err error
		if *number.to, err = parse(name, variable(name)); err != nil {
			return p, err
		}
	}
	if p.Address == "" {
		missing = append(missing, "MASTER_ADDR")
	}
	if p.Port == "" {
		missing = append(missing, "MASTER_PORT")
	}
	if len(missing) > 0 {
		return p, fmt.Errorf("the environment lacks %s: start workers with torchrun, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT", strings.Join(missing, ", "))
	}
	port, err := parse("MASTER_PORT", p.Port)
	if err != nil {
		return p, err
	}
	if variable("TORCHELASTIC_USE_AGENT_STORE") == "True" {
		port++ // torchrun itself has MASTER_PORT
	}
	p.Port = fmt.Sprint(port)
	p.Run = variable("TORCHELASTIC_RUN_ID") + variable("SLURM_JOB_ID") + "/" + variable("TORCHELASTIC_RESTART_COUNT") + variable("SLURM_RESTART_COUNT")
	switch {
	case port < 1 || port > 65535:
		return p, fmt.Errorf("MASTER_PORT must be 1 … 65535, not %d", port)
	case p.Size < 1 || p.Rank >= p.Size:
		return p, fmt.Errorf("RANK %d of WORLD_SIZE %d; ranks are 0 … WORLD_SIZE−1", p.Rank, p.Size)
	}
	return p, nil
}

func parse(name, text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s=%q is no number", name, text)
	}
	return n, nil
}
