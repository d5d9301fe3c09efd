package switchboard

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/switchboard/wire"
)

const (
	// writeLimit bounds how long a proxy may take to read a line.
	writeLimit = 5 * time.Second
	// streamLife is how long a proxy is believed to be who it was: pods and
	// claims change.
	streamLife = 30 * time.Minute
	// lookLimit bounds the questions to the API server about one request.
	lookLimit = 10 * time.Second
)

// Options say how to serve a board.
type Options struct {
	Board    *Board
	API      client.Client // without a cache
	Listener net.Listener  // closed at the end
	// Namespace is where the certificates, and the notice for the webhook, are kept.
	Namespace string
	// Address is what proxies call: host:port. Empty is the listener's own.
	Address string
	// Endpoint has the Service of that Address lead to the listener at this IP; nil leaves the Service alone.
	Endpoint net.IP
	Log      *slog.Logger
}

// Serve lets proxies in until ctx ends, and returns nil. While its certificates
// cannot be renewed it says so in the log and goes on with those it has.
func Serve(ctx context.Context, o Options) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s := &server{board: o.Board, doorman: newDoorman(o.API), api: o.API, log: o.Log}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.Path, s.stream)
	mux.HandleFunc("POST "+wire.Path+"/{session}/reports", s.report)
	certificates := o.certificates(&s.authorities)
	listener := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: lookLimit + writeLimit,
		IdleTimeout: 90 * time.Second, MaxHeaderBytes: 16 << 10,
		TLSConfig:   &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificates.Get},
		ErrorLog:    slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), // handshakes that a port scan breaks off
		BaseContext: func(net.Listener) context.Context { return ctx },   // streams end with us
	}
	served := make(chan error, 1)
	go func() {
		err := listener.ServeTLS(o.Listener, "", "")
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		stop(err)
		served <- err
	}()
	boarded := make(chan struct{})
	go func() {
		defer close(boarded)
		o.Board.Run(ctx)
	}()
	o.keep(ctx, certificates)
	<-boarded
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := listener.Shutdown(closing)
	if errors.Is(err, context.DeadlineExceeded) {
		err = listener.Close()
	}
	return errors.Join(err, <-served)
}

type server struct {
	board       *Board
	doorman     *doorman
	api         client.Client
	log         *slog.Logger
	authorities atomic.Pointer[string]
}

// stream holds one proxy's connection. What it writes ends within writeLimit,
// so that a proxy that does not read is let go.
func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	joined, generation, err := s.greet(w, r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Time{}); err != nil { // that of the hello, which would end the stream
		s.refuse(w, r, err)
		return
	}
	s.board.join(joined, generation)
	defer s.board.leave(joined)
	w.Header().Set("Content-Type", "application/jsonl")
	write := func(line wire.Line) error {
		return errors.Join(control.SetWriteDeadline(time.Now().Add(writeLimit)),
			json.NewEncoder(w).Encode(line), control.Flush(), control.SetWriteDeadline(time.Time{}))
	}
	first := wire.Line{Session: joined.id}
	if bundle := s.authorities.Load(); bundle != nil {
		first.Authorities = *bundle
	}
	select {
	case d := <-joined.out: // it is told before it may serve
		first.Directive = &d
	default:
	}
	heartbeat, life := time.NewTicker(wire.Heartbeat), time.NewTimer(streamLife)
	defer heartbeat.Stop()
	defer life.Stop()
	for err = write(first); err == nil; {
		select {
		case <-r.Context().Done():
			return
		case <-joined.ended:
			return
		case <-life.C:
			return
		case d := <-joined.out:
			err = write(wire.Line{Directive: &d})
		case <-heartbeat.C:
			err = write(wire.Line{})
		}
	}
}

// greet reads the hello and lets the proxy in, or says why not.
func (s *server) greet(w http.ResponseWriter, r *http.Request) (*session, uint64, error) {
	ctx, cancel := context.WithTimeout(r.Context(), lookLimit)
	defer cancel()
	who, err := s.doorman.identify(r.WithContext(ctx))
	if err != nil {
		return nil, 0, err
	}
	var hello wire.Hello
	if err := read(w, r, &hello); err != nil {
		return nil, 0, err
	}
	const sane = 1 << 62 // beyond, nobody could begin another operation
	if hello.Version != wire.Version || hello.Generation > sane {
		return nil, 0, refuse(http.StatusBadRequest, "version %d of the contract and its values are not spoken here, but version %d", hello.Version, wire.Version)
	}
	claim, sidecars, err := admit(ctx, s.api, who, hello.Claim)
	if err != nil {
		return nil, 0, err
	}
	if len(sidecars) == 0 {
		sidecars = []credential.Sidecar{{Kind: "dbproxy", Revision: short(hello.Revision)}}
	}
	pod := who.Pod
	if who.Namespace != claim.Namespace {
		pod = who.Namespace + "/" + pod
	}
	s.log.Debug("a proxy has come", "claim", claim.String(), "pod", pod, "revision", short(hello.Revision))
	return &session{
		id: rand.Text(), claim: claim, who: who, pod: pod, sidecars: sidecars, usage: hello.Usage,
		out: make(chan wire.Directive, queue), ended: make(chan struct{}),
	}, hello.Generation, nil
}

func (s *server) report(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), lookLimit)
	defer cancel()
	who, err := s.doorman.identify(r.WithContext(ctx))
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	var told wire.Report
	if err := read(w, r, &told); err != nil {
		s.refuse(w, r, err)
		return
	}
	from := s.board.session(r.PathValue("session"))
	if from == nil || from.who != who {
		s.refuse(w, r, refuse(http.StatusNotFound, "there is no such session of this pod"))
		return
	}
	s.board.report(from, told)
	w.WriteHeader(http.StatusNoContent)
}

func read(w http.ResponseWriter, r *http.Request, into any) error {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, wire.MaxBody)).Decode(into); err != nil {
		return refuse(http.StatusBadRequest, "the body is not what it has to be, or too long")
	}
	return nil
}

// refuse answers with a reason; that of a failure of ours is for the log alone.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var no *refusal
	if errors.As(err, &no) {
		s.log.Info("a proxy is refused", "from", r.RemoteAddr, "reason", no.reason)
		http.Error(w, no.reason, no.code)
		return
	}
	if r.Context().Err() == nil {
		s.log.Error("answering a proxy", "error", err)
	}
	http.Error(w, "the switchboard cannot tell at the moment who this is; try again", http.StatusServiceUnavailable)
}
