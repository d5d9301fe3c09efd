package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/repo/blob"

	"github.com/berth-dev/berth/agent/s3"
)

// patience is for how long a repository may fail before a read is given up.
const patience = 5 * time.Minute

// watched is a storage of which is remembered why it last could not be read.
// kopia's own errors do not always tell an absent network from damaged data.
type watched struct {
	blob.Storage
	folder  bool // a cut file is told by a plain error, all trouble by a PathError
	trouble atomic.Pointer[Fault]
}

// GetBlob reads, and remembers trouble.
func (w *watched) GetBlob(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error {
	return w.note(w.Storage.GetBlob(ctx, id, offset, length, out))
}

// GetMetadata describes, and remembers trouble.
func (w *watched) GetMetadata(ctx context.Context, id blob.ID) (blob.Metadata, error) {
	m, err := w.Storage.GetMetadata(ctx, id)
	return m, w.note(err)
}

// ListBlobs lists, and remembers trouble.
func (w *watched) ListBlobs(ctx context.Context, prefix blob.ID, each func(blob.Metadata) error) error {
	return w.note(w.Storage.ListBlobs(ctx, prefix, each))
}

// note keeps what is no finding about the backup.
func (w *watched) note(err error) error {
	var refused *s3.Error
	var broker *s3.Refusal
	var path *fs.PathError
	switch {
	case err == nil || errors.Is(err, blob.ErrBlobNotFound) || errors.Is(err, blob.ErrInvalidRange):
	case w.folder && !errors.As(err, &path):
	case errors.Is(err, context.Canceled):
		w.trouble.CompareAndSwap(nil, &Fault{Interrupted, err})
	case errors.Is(err, s3.ErrNoKeys) && errors.As(err, &broker) && broker.Status < 500,
		errors.As(err, &refused) && (refused.Status == http.StatusForbidden || refused.Status == http.StatusUnauthorized), errors.Is(err, fs.ErrPermission):
		w.trouble.CompareAndSwap(nil, &Fault{CredentialsDenied, err})
	default:
		w.trouble.CompareAndSwap(nil, &Fault{RepositoryUnreachable, err})
	}
	return err
}

// bucket is a kopia storage that reads objects, under keys that are renewed.
type bucket struct {
	blob.DefaultProviderImplementation
	client *s3.Client
}

var errReadOnly = errors.New("the repository is opened for reading alone")

// GetBlob reads length bytes from offset, or all when length is negative.
func (b *bucket) GetBlob(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error {
	if length == 0 {
		out.Reset()
		return nil
	}
	return b.persist(ctx, func() error {
		out.Reset()
		body, err := b.client.Get(ctx, string(id), offset, length)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, body)
		if err := errors.Join(err, body.Close()); err != nil {
			return err
		}
		return blob.EnsureLengthExactly(out.Length(), length)
	})
}

// GetMetadata describes one blob.
func (b *bucket) GetMetadata(ctx context.Context, id blob.ID) (blob.Metadata, error) {
	var object s3.Object
	err := b.persist(ctx, func() (err error) {
		object, err = b.client.Head(ctx, string(id))
		return err
	})
	return blob.Metadata{BlobID: id, Length: object.Size, Timestamp: object.Modified}, err
}

// ListBlobs tells each blob once, after all of them are known.
func (b *bucket) ListBlobs(ctx context.Context, prefix blob.ID, each func(blob.Metadata) error) error {
	var objects []s3.Object
	err := b.persist(ctx, func() (err error) {
		objects, err = b.client.List(ctx, string(prefix))
		return err
	})
	for _, o := range objects {
		if err := each(blob.Metadata{BlobID: blob.ID(o.Key), Length: o.Size, Timestamp: o.Modified}); err != nil {
			return err
		}
	}
	return err
}

// PutBlob refuses.
func (b *bucket) PutBlob(context.Context, blob.ID, blob.Bytes, blob.PutOptions) error {
	return errReadOnly
}

// DeleteBlob refuses.
func (b *bucket) DeleteBlob(context.Context, blob.ID) error { return errReadOnly }

// IsReadOnly is true.
func (b *bucket) IsReadOnly() bool { return true }

// ConnectionInfo says nothing of where it is, or of how to get in.
func (b *bucket) ConnectionInfo() blob.ConnectionInfo { return blob.ConnectionInfo{Type: storageType} }

// DisplayName is for people.
func (b *bucket) DisplayName() string { return "S3" }

// denials is how often in a row access may be denied: a server that is just
// ending a session denies it before it calls it unknown.
const denials = 4

// persist repeats what may succeed later, at growing intervals.
func (b *bucket) persist(ctx context.Context, read func() error) error {
	began, pause, denied := time.Now(), 100*time.Millisecond, 0
	for {
		err := translate(read())
		var refused *s3.Error
		if errors.As(err, &refused) && refused.Status == http.StatusForbidden {
			denied++
		}
		if err == nil || !repeatable(err) || time.Since(began) > patience || denied == denials {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
			pause = min(2*pause, 10*time.Second)
		}
	}
}

func translate(err error) error {
	var refused *s3.Error
	if !errors.As(err, &refused) {
		return err
	}
	switch {
	case refused.Status == http.StatusNotFound && refused.Code != "NoSuchBucket":
		return fmt.Errorf("%w: %w", blob.ErrBlobNotFound, err)
	case refused.Status == http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%w: %w", blob.ErrInvalidRange, err)
	}
	return err
}

// repeatable tells what time may mend: a network, a server in trouble, a limit.
func repeatable(err error) bool {
	var refused *s3.Error
	var broker *s3.Refusal
	switch {
	case errors.Is(err, blob.ErrBlobNotFound), errors.Is(err, blob.ErrInvalidRange), errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &refused):
		return refused.Status >= 500 || refused.Status == http.StatusForbidden || refused.Status == http.StatusTooManyRequests || refused.Status == http.StatusRequestTimeout
	case errors.As(err, &broker):
		return broker.Status >= 500
	}
	return true
}
