package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"golang.org/x/sync/errgroup"

	"github.com/berth-dev/berth/cloud"
	"github.com/berth-dev/berth/process"
)

const (
	rate       = 500 // requests a second
	apiSecret  = "bench"
	answerTime = 5 * time.Second
	warmUp     = 2 * time.Second // connections are opened, and what filled the cache is collected
)

// measureStatus asks `berth api` for the status of one warehouse of many.
func measureStatus(ctx context.Context, b *bench) (_ row, err error) {
	ctx, w, err := newWorld(ctx, b)
	if err != nil {
		return row{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	var makers errgroup.Group
	makers.SetLimit(atOnce)
	for i := range b.size.warehouses {
		makers.Go(func() error { return (&lake{world: w}).make(ctx, fmt.Sprint("org-", i)) })
	}
	if err := makers.Wait(); err != nil {
		return row{}, err
	}
	address, p, err := w.startAPI(ctx)
	if err != nil {
		return row{}, err
	}
	defer func() { err = errors.Join(err, p.Stop(answerTime)) }()
	request := func(i int) error {
		return ask(ctx, fmt.Sprintf("http://%s/api/v1/orgs/org-%d/warehouse/status", address, i%b.size.warehouses))
	}
	first, err := askAtRate(ctx, warmUp, request)
	if err != nil {
		return row{}, err
	}
	figures, err := askAtRate(ctx, b.size.asked, request)
	if err != nil {
		return row{}, err
	}
	b.say("  the first %s after its start: p99 %s ms, at most %s ms", warmUp, number(percentile(first, 99)), number(most(first)))
	now, _, err := memoryOf(p.Pid())
	if err != nil {
		return row{}, err
	}
	p99 := percentile(figures, 99)
	return row{
		what:  fmt.Sprintf("GET status with %d warehouses at %d/s, ms, after the first %s", b.size.warehouses, rate, warmUp),
		berth: fmt.Sprintf("p99 %s (before: %s); %s MB", number(p99), number(percentile(first, 99)), number(now/1e6)), figures: figures, must: "p99 < 10", reached: p99 < 10,
	}, nil
}

func (w *world) startAPI(ctx context.Context) (address string, p *process.Process, err error) {
	if address, err = freeAddress(); err != nil {
		return "", nil, err
	}
	log, err := os.Create(filepath.Join(w.dir, "api.log"))
	if err != nil {
		return "", nil, fmt.Errorf("opening log: %w", err)
	}
	defer log.Close()
	p, err = process.Start(process.Spec{
		Path: w.bench.program, Dir: w.dir, Log: log, Env: append(os.Environ(), "BERTH_INTERNAL_SECRET="+apiSecret),
		Args: []string{"api", "--kubeconfig=" + w.kubeconfig(), "--api-address=" + address, "--metrics-address=0"},
	})
	if err != nil {
		return "", nil, err
	}
	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return address, p, until(limited, func() (bool, error) { return ask(limited, "http://"+address+"/health") == nil, nil })
}

var asker = &http.Client{Timeout: answerTime, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

func ask(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	request.Header.Set("X-Berth-Internal-Secret", apiSecret)
	response, err := asker.Do(request)
	if err != nil {
		return fmt.Errorf("asking: %w", err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
		return fmt.Errorf("asking: %s", response.Status)
	}
	return nil
}

// askAtRate calls f at the rate, whether or not earlier calls have ended, and
// returns how long each took from when it was due, in milliseconds.
func askAtRate(ctx context.Context, long time.Duration, f func(int) error) ([]float64, error) {
	var work errgroup.Group
	var mu sync.Mutex
	var figures []float64
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	began := time.Now()
	for i := 0; time.Since(began) < long; i++ {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case due := <-tick.C:
			work.Go(func() error {
				err := f(i)
				mu.Lock()
				defer mu.Unlock()
				figures = append(figures, float64(time.Since(due).Microseconds())/1000)
				return err
			})
		}
	}
	return figures, work.Wait()
}

// measureActivation has 16 callers ask for one role's credentials at once, and
// then one for what is cached. The service is a stand-in that takes 50 ms.
func measureActivation(ctx context.Context, _ *bench) (row, error) {
	var calls atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		select {
		case <-time.After(50 * time.Millisecond):
		case <-r.Context().Done():
		}
		fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>AKIA</AccessKeyId>`+
			`<SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`,
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer service.Close()
	assume, err := cloud.Service{Region: "us-east-1", Endpoint: service.URL, Own: credentials.NewStaticCredentialsProvider("a", "b", "")}.AssumeRole(ctx)
	if err != nil {
		return row{}, err
	}
	broker, role := cloud.New(cloud.Options{Assume: assume}), cloud.Role{ARN: "arn:aws:iam::1:role/acme"}
	var together errgroup.Group
	for i := range 16 {
		together.Go(func() error {
			_, err := broker.Get(ctx, role, fmt.Sprint("worker-", i))
			return err
		})
	}
	if err := together.Wait(); err != nil {
		return row{}, err
	}
	var figures []float64
	for range 10_000 {
		began := time.Now()
		if _, err := broker.Get(ctx, role, "worker-0"); err != nil {
			return row{}, err
		}
		figures = append(figures, float64(time.Since(began).Nanoseconds())/1e6)
	}
	p99 := percentile(figures, 99)
	return row{
		what:  "16 concurrent activations of one org; a cached hand-out, ms",
		berth: fmt.Sprintf("%d AssumeRole; p99 %s", calls.Load(), number(p99)), figures: figures,
		must: "1 AssumeRole; p99 < 1", reached: calls.Load() == 1 && p99 < 1,
	}, nil
}
