package rendezvous

import (
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"slices"
	"strconv"
	"sync"
	"time"
)

const serviceName = "Rendezvous"

// The arguments of calls.
type (
	// Member is a rank that joins.
	Member struct {
		Rank, Size int
		Run        string
	}
	// Entry is a value with its key.
	Entry struct {
		Key   string
		Value []byte
	}
	// Call asks who has not made it.
	Call struct {
		Group  string
		Calls  int
		Among  []int
		Silent time.Duration // how long a rank may say nothing
	}
)

// service is what rank 0 does for all.
type service struct {
	place    Place
	listener net.Listener
	tasks    sync.WaitGroup

	mu       sync.Mutex
	changed  *sync.Cond
	values   map[string][]byte
	members  []member
	notices  []Notice
	sessions []*session
	over     bool
}

// member is what is known of a rank.
type member struct {
	joined, stopped bool
	progress        map[string]int
	heard           time.Time
}

// session is the connection of a rank. Its exported methods are those that
// clients call.
type session struct {
	*service
	conn net.Conn
	rank int  // -1 before it has joined
	gone bool // the connection is no more
}

// serve starts the service, with the connection of rank 0 itself.
func serve(p Place, own net.Conn) (*service, error) {
	listener, err := net.Listen("tcp", p.listen())
	if err != nil {
		return nil, fmt.Errorf("%w; choose another MASTER_PORT", err)
	}
	s := &service{place: p, listener: listener, values: map[string][]byte{}, members: make([]member, p.Size)}
	s.changed = sync.NewCond(&s.mu)
	s.accept(own)
	s.tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			s.accept(conn)
		}
	})
	return s, nil
}

func (s *service) accept(conn net.Conn) {
	c := &session{service: s, conn: conn, rank: -1}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		conn.Close()
		return
	}
	s.sessions = append(s.sessions, c)
	server := rpc.NewServer()
	if err := server.RegisterName(serviceName, &Service{c}); err != nil {
		panic(err) // it has methods
	}
	s.tasks.Go(func() { server.ServeConn(watched{conn, c}) })
}

// watched is a connection that tells its session when it ends; the server
// itself waits for calls under way before.
type watched struct {
	net.Conn
	session *session
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.session.end()
	}
	return n, err
}

// end notes that a rank has gone.
func (c *session) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone && c.rank >= 0 {
		c.stop(Notice{Rank: c.rank, Reason: "has gone"})
	}
	c.gone = true
	c.changed.Broadcast()
}

// stop notes the first notice of a rank.
func (s *service) stop(n Notice) {
	if !s.members[n.Rank].stopped {
		s.members[n.Rank].stopped = true
		s.notices = append(s.notices, n)
		s.changed.Broadcast()
	}
}

// linger is how long rank 0 waits for others that have stopped to leave.
const linger = 2 * time.Second

func (s *service) close() error {
	err := s.listener.Close()
	begin := time.Now()
	timer := time.AfterFunc(linger, s.changed.Broadcast)
	defer timer.Stop()
	s.mu.Lock()
	present := func(c *session) bool { return !c.gone }
	for len(s.notices) == len(s.members) && time.Since(begin) < linger && slices.ContainsFunc(s.sessions, present) {
		s.changed.Wait()
	}
	s.over = true
	s.changed.Broadcast()
	for _, c := range s.sessions {
		c.conn.Close()
	}
	s.mu.Unlock()
	s.tasks.Wait()
	return err
}

var (
	errOver     = errors.New("rank 0 has closed")
	errOtherRun = errors.New("rank 0 is of another run")
)

// wait waits until a condition holds, unless the connection ends before.
func (c *session) wait(condition func() bool) error {
	for !condition() {
		if c.gone || c.over {
			return errOver
		}
		c.changed.Wait()
	}
	return nil
}

// which returns the ranks that a condition holds for.
func (s *service) which(condition func(*member) bool) []int {
	var list []int
	for i := range s.members {
		if condition(&s.members[i]) {
			list = append(list, i)
		}
	}
	return list
}

// Service has the calls of one rank. It is exported for net/rpc alone.
type Service struct{ session *session }

// Join makes the connection that of a rank.
func (s *Service) Join(m Member, _ *struct{}) error {
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case m.Run != c.place.Run:
		return errOtherRun
	case m.Size != c.place.Size:
		return fmt.Errorf("a world of %d ranks, but of %d for rank 0", m.Size, c.place.Size)
	case m.Rank < 0 || m.Rank >= m.Size || c.members[m.Rank].joined || c.rank >= 0:
		return fmt.Errorf("rank %d has joined before", m.Rank)
	}
	c.rank = m.Rank
	c.members[m.Rank].joined, c.members[m.Rank].heard = true, time.Now()
	c.changed.Broadcast()
	return nil
}

// All returns when all ranks have joined.
func (s *Service) All(struct{}, *struct{}) error {
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wait(func() bool { return len(c.which(func(m *member) bool { return !m.joined })) == 0 })
}

// Absent returns the ranks that have not joined.
func (s *Service) Absent(_ struct{}, ranks *[]int) error {
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	*ranks = c.which(func(m *member) bool { return !m.joined })
	return nil
}

// Set gives a key a value.
func (s *Service) Set(e Entry, _ *struct{}) error {
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.values[e.Key]; known {
		return fmt.Errorf("%q is set already", e.Key)
	}
	c.values[e.Key] = e.Value
	c.changed.Broadcast()
	return nil
}

// Get returns the value of a key when it has one.
func (s *Service) Get(key string, value *[]byte) error {
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wait(func() (known bool) {
		*value, known = c.values[key]
		return known
	})
}

// Report takes down the progress of a rank.
func (s *Service) Report(progress map[string]int, _ *struct{}) error {
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rank >= 0 {
		m := &c.members[c.rank]
		m.progress, m.heard = progress, time.Now()
	}
	return nil
}

// Behind returns who has not made a call, or says nothing.
func (s *Service) Behind(call Call, ranks *[]int) error {
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for _, rank := range call.Among {
		if rank < 0 || rank >= len(c.members) {
			return fmt.Errorf("no rank %d", rank)
		}
		if m := &c.members[rank]; rank != c.rank && (m.progress[call.Group] < call.Calls || now.Sub(m.heard) > call.Silent) {
			*ranks = append(*ranks, rank)
		}
	}
	return nil
}

// Stop takes down that a rank has stopped.
func (s *Service) Stop(n Notice, _ *struct{}) error {
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.Rank != c.rank || c.rank < 0 {
		return fmt.Errorf("rank %d speaks for rank %d", c.rank, n.Rank)
	}
	c.stop(n)
	return nil
}

// Next returns the notices after the first known ones, when there are any.
func (s *Service) Next(known int, notices *[]Notice) error {
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	if known < 0 {
		return errors.New("no notice " + strconv.Itoa(known))
	}
	err := c.wait(func() bool { return len(c.notices) > known })
	if err == nil {
		*notices = slices.Clone(c.notices[known:])
	}
	return err
}

// Stopped returns when all ranks have.
func (s *Service) Stopped(struct{}, *struct{}) error {
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wait(func() bool { return len(c.notices) == len(c.members) })
}

// Left returns the ranks that have not stopped.
func (s *Service) Left(_ struct{}, ranks *[]int) error {
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	*ranks = c.which(func(m *member) bool { return !m.stopped })
	return nil
}
