package spend

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ProducerID names one run of an instance: a UUIDv7 (RFC 9562), made at start and never used again.
type ProducerID [16]byte

// NewProducerID returns a new identity whose leading 48 bits are now in Unix milliseconds.
func NewProducerID(now time.Time) ProducerID {
	var id ProducerID
	rand.Read(id[:]) // never fails
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint16(id[0:], uint16(ms>>32))
	binary.BigEndian.PutUint32(id[2:], uint32(ms))
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Born returns when the identity was made, to the millisecond.
func (id ProducerID) Born() time.Time {
	ms := uint64(binary.BigEndian.Uint16(id[0:]))<<32 | uint64(binary.BigEndian.Uint32(id[2:]))
	return time.UnixMilli(int64(ms))
}

// String returns the usual text of a UUID.
func (id ProducerID) String() string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// Compare orders identities as Postgres orders UUIDs.
func (id ProducerID) Compare(other ProducerID) int { return slices.Compare(id[:], other[:]) }

// ErrProducerID is wrapped by the errors of ParseProducerID.
var ErrProducerID = errors.New("not a producer id")

// ParseProducerID reads what String writes.
func ParseProducerID(text string) (ProducerID, error) {
	var id ProducerID
	if len(text) == 36 && text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-' {
		if n, err := hex.Decode(id[:], []byte(strings.ReplaceAll(text, "-", ""))); err == nil && n == len(id) {
			return id, nil
		}
	}
	return ProducerID{}, fmt.Errorf("%w: %.40q: want a UUID", ErrProducerID, text)
}

// EntityType says what kind of thing spend counts on. The numbers are stored; they never change
// their meaning.
type EntityType uint8

// The entity types.
const (
	APIKey EntityType = iota + 1
	User
	EndUser
	Team
	TeamMember
	Organization
	Tag
	Agent

	entityTypes = int(Agent)
)

var entityTypeNames = [entityTypes + 1]string{
	"", "api_key", "user", "end_user", "team", "team_member", "organization", "tag", "agent",
}

func (t EntityType) String() string {
	if int(t) < len(entityTypeNames) {
		return entityTypeNames[t]
	}
	return fmt.Sprintf("entity_type(%d)", uint8(t))
}

// EntityTypes returns all entity types in the order of their numbers.
func EntityTypes() []EntityType {
	all := make([]EntityType, entityTypes)
	for i := range all {
		all[i] = EntityType(i + 1)
	}
	return all
}

// ErrEntityType is wrapped by the errors of ParseEntityType.
var ErrEntityType = errors.New("unknown entity type")

// ParseEntityType reads the name of an entity type, such as "api_key".
func ParseEntityType(name string) (EntityType, error) {
	if i := slices.Index(entityTypeNames[1:], name); i >= 0 {
		return EntityType(i + 1), nil
	}
	return 0, fmt.Errorf("%w: %.40q: allowed are %s", ErrEntityType, name, strings.Join(entityTypeNames[1:], ", "))
}

// Entity is one thing that spend counts on.
type Entity struct {
	Type   EntityType
	ID     string
	TeamID string // only of a TeamMember, whose ID is the user's
}

// Key is the identity of an entity or a series: the first 128 bits of the SHA-256 of its canonical
// encoding, in which every text has its length before it. It doesn't depend on any database.
type Key [16]byte

// Compare orders keys as Postgres orders UUIDs.
func (k Key) Compare(other Key) int {
	if c := cmp.Compare(binary.BigEndian.Uint64(k[:8]), binary.BigEndian.Uint64(other[:8])); c != 0 {
		return c
	}
	return cmp.Compare(binary.BigEndian.Uint64(k[8:]), binary.BigEndian.Uint64(other[8:]))
}

// Buckets is how many parts the keys fall into, however many shards there are. What one id counts
// once is decided bucket by bucket.
const Buckets = MaxShards

// Bucket returns which bucket the row with this key is in, from 0.
func (k Key) Bucket() int { return int(k[len(k)-1] % Buckets) }

// Shard returns the shard that the row with this key belongs to. It is that of its bucket: where
// the number of shards changes, a bucket moves as a whole.
func (k Key) Shard(shards int) int { return k.Bucket() % shards }

// Key returns the identity of the entity.
func (e Entity) Key() Key {
	return hashKey(e.appendCanonical(make([]byte, 0, 2+2*(2+MaxIDBytes))))
}

func (e Entity) appendCanonical(to []byte) []byte {
	to = append(to, 'e', byte(e.Type))
	to = appendText(to, e.ID)
	return appendText(to, e.TeamID)
}

// Key returns the identity of the series. The order and repetition of its tags don't matter.
func (s *Series) Key() Key {
	return hashKey(s.AppendCanonical([]byte{'s'}, AllDimensions))
}

func hashKey(canonical []byte) Key {
	sum := sha256.Sum256(canonical)
	return Key(sum[:16])
}

// Dimensions is a set of the five dimensions: bit i stands for the i-th of DimensionNames.
type Dimensions uint8

const AllDimensions Dimensions = 1<<(seriesFields-seriesIDs) - 1

// AppendCanonical appends the encoding that identifies the series: every field in order and every
// tag, sorted and once, each with its length before it. Dimensions not in keep are left empty.
func (s *Series) AppendCanonical(to []byte, keep Dimensions) []byte {
	to = appendText(to, s.APIKey)
	to = appendText(to, s.UserID)
	to = appendText(to, s.EndUserID)
	to = appendText(to, s.TeamID)
	to = appendText(to, s.OrganizationID)
	to = appendText(to, s.AgentID)
	if keep == AllDimensions { // no loop, because every Record comes by
		to = appendText(to, s.Model)
		to = appendText(to, s.ModelGroup)
		to = appendText(to, s.CustomLLMProvider)
		to = appendText(to, s.MCPNamespacedToolName)
		to = appendText(to, s.Endpoint)
	} else {
		for i := range seriesFields - seriesIDs {
			if keep&(1<<i) != 0 {
				to = appendText(to, *s.Text(seriesIDs + i))
			} else {
				to = append(to, 0)
			}
		}
	}
	if !isSet(s.Tags) {
		return appendUnsorted(to, s.Tags)
	}
	return appendTexts(to, s.Tags)
}

// isSet says whether the texts are sorted, each once.
func isSet(texts []string) bool {
	for i := 1; i < len(texts); i++ {
		if texts[i-1] >= texts[i] {
			return false
		}
	}
	return true
}

func appendUnsorted(to []byte, texts []string) []byte {
	var array [8]string
	set := append(array[:0], texts...)
	slices.Sort(set)
	return appendTexts(to, slices.Compact(set))
}

func appendTexts(to []byte, texts []string) []byte {
	to = binary.AppendUvarint(to, uint64(len(texts)))
	for _, text := range texts {
		to = appendText(to, text)
	}
	return to
}

func appendText(to []byte, text string) []byte {
	switch {
	case text == "": // as most fields are; to append nothing takes as long as to append a text
		return append(to, 0)
	case len(text) < 0x80:
		to = append(to, byte(len(text)))
	default:
		to = binary.AppendUvarint(to, uint64(len(text)))
	}
	return append(to, text...)
}

// EachEntity calls yield for each entity that the series counts on, in the order of their types.
// Tags must be a set.
func (s *Series) EachEntity(yield func(Entity)) {
	one := func(t EntityType, id string) {
		if id != "" {
			yield(Entity{Type: t, ID: id})
		}
	}
	one(APIKey, s.APIKey)
	one(User, s.UserID)
	one(EndUser, s.EndUserID)
	one(Team, s.TeamID)
	if s.TeamID != "" && s.UserID != "" {
		yield(Entity{Type: TeamMember, ID: s.UserID, TeamID: s.TeamID})
	}
	one(Organization, s.OrganizationID)
	for _, tag := range s.Tags {
		one(Tag, tag)
	}
	one(Agent, s.AgentID)
}

// Hour is a UTC hour, counted from 1970-01-01T00:00Z.
type Hour int32

// HourOf returns the UTC hour that t lies in.
func HourOf(t time.Time) Hour { return Hour(floorDiv(t.Unix(), 3600)) }

// Time returns the start of the hour, in UTC.
func (h Hour) Time() time.Time { return time.Unix(int64(h)*3600, 0).UTC() }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
