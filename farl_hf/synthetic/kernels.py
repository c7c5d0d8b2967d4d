"""
The kernels: what a ray sees, from one source for CPU and CUDA.

A ray goes through lenses and gaps between strands until it meets something solid; the colour at a hit is a function of
the *neutral* position there, so paint sticks to the face. See `appearance` for the rows of the parameter table.
"""

# Warp needs int(0) and float(0.0) for numbers that loops change, and knows no `in`.
# ruff: noqa: UP018, RUF046, SIM102, SIM109
import warp as wp

wp.config.quiet = True
wp.set_module_options({"enable_backward": False, "fast_math": True, "max_unroll": 1})

# What a triangle belongs to.
SKIN, BODY, EYE, SOCKET, CAVITY, TONGUE = range(6)
TEETH, HAIR, LENS, FRAME, HAT, EARRING, NECKLACE, THING, HAND, LASH = range(6, 16)

vec4 = wp.vec4


@wp.struct
class Scene:
    """Several pictures: what has one row for each of them is read at the picture's index `q`."""

    meshes: wp.array(dtype=wp.uint64)
    first_triangle: wp.array(dtype=wp.int32)
    triangles: wp.array(dtype=wp.int32, ndim=2)
    parts: wp.array(dtype=wp.int32)
    people: wp.array(dtype=wp.int32)
    normals: wp.array(dtype=wp.vec3)
    neutral: wp.array(dtype=wp.vec3)
    traits: wp.array(dtype=wp.vec4)  # jaw, ear, openness to the sky, lid
    table: wp.array(dtype=wp.float32, ndim=2)
    hairline: wp.array(dtype=wp.float32, ndim=2)
    maps: wp.array(dtype=wp.float32, ndim=3)
    lights: wp.array(dtype=wp.float32, ndim=3)  # direction to it (3), colour (3), size, casts shadows
    lamp_count: wp.array(dtype=wp.int32)
    sky: wp.array(dtype=wp.vec3, ndim=2)  # above, horizon, below
    lenses: wp.array(dtype=wp.float32)  # whether any lens is in the picture
    strands: wp.float32
    detail: wp.float32


@wp.struct
class Seen:
    colour: wp.vec3
    alpha: wp.float32
    part: wp.int32
    person: wp.int32
    lapa: wp.int32
    celebamask_hq: wp.int32
    depth: wp.float32
    normal: wp.vec3
    lamps: wp.vec3  # how much of each is seen, and what each would give if nothing hid it
    first_lamp: wp.vec3
    second_lamp: wp.vec3
    third_lamp: wp.vec3


@wp.func
def row3(table: wp.array(dtype=wp.float32, ndim=2), p: int, k: int):
    return wp.vec3(table[p, k], table[p, k + 1], table[p, k + 2])


@wp.func
def smooth(low: float, high: float, x: float):
    t = wp.clamp((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@wp.func
def hash1(i: int, j: int, k: int):
    h = (i * 374761393 + j * 668265263 + k * 1274126177) & 0x7FFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0x7FFFFFFF
    return float((h ^ (h >> 16)) & 65535) / 65535.0


@wp.func
def noise3(p: wp.vec3):
    """Smooth value noise in [0, 1]."""
    fx = wp.floor(p[0])
    fy = wp.floor(p[1])
    fz = wp.floor(p[2])
    i = int(fx)
    j = int(fy)
    k = int(fz)
    u = p[0] - fx
    v = p[1] - fy
    w = p[2] - fz
    u = u * u * (3.0 - 2.0 * u)
    v = v * v * (3.0 - 2.0 * v)
    w = w * w * (3.0 - 2.0 * w)
    a = wp.lerp(
        wp.lerp(hash1(i, j, k), hash1(i + 1, j, k), u), wp.lerp(hash1(i, j + 1, k), hash1(i + 1, j + 1, k), u), v
    )
    b = wp.lerp(
        wp.lerp(hash1(i, j, k + 1), hash1(i + 1, j, k + 1), u),
        wp.lerp(hash1(i, j + 1, k + 1), hash1(i + 1, j + 1, k + 1), u),
        v,
    )
    return wp.lerp(a, b, w)


@wp.func
def noise2(x: float, y: float, seed: int):
    fx = wp.floor(x)
    fy = wp.floor(y)
    i = int(fx)
    j = int(fy)
    u = x - fx
    v = y - fy
    u = u * u * (3.0 - 2.0 * u)
    v = v * v * (3.0 - 2.0 * v)
    return wp.lerp(
        wp.lerp(hash1(i, j, seed), hash1(i + 1, j, seed), u),
        wp.lerp(hash1(i, j + 1, seed), hash1(i + 1, j + 1, seed), u),
        v,
    )


@wp.func
def fetch(maps: wp.array(dtype=wp.float32, ndim=3), channel: int, x: float, y: float):
    """A map of the neutral face's front at (x, y) metres: half a millimetre per cell from (-0.09, -0.13)."""
    u = wp.clamp((x + 0.09) * 2000.0, 0.0, 359.0)
    v = wp.clamp((y + 0.13) * 2000.0, 0.0, 519.0)
    i = int(u)
    j = int(v)
    du = u - float(i)
    dv = v - float(j)
    top = wp.lerp(maps[j, i, channel], maps[j, i + 1, channel], du)
    bottom = wp.lerp(maps[j + 1, i, channel], maps[j + 1, i + 1, channel], du)
    return wp.lerp(top, bottom, dv)


@wp.func
def hairline_at(hairline: wp.array(dtype=wp.float32, ndim=2), p: int, around: float):
    """Height (y) of the hairline at an angle around the head, 0 in front to pi behind."""
    at = wp.clamp(wp.abs(around) / 3.14159265 * 32.0, 0.0, 31.999)
    i = int(at)
    return wp.lerp(hairline[p, i], hairline[p, i + 1], at - float(i))


@wp.func
def brow_distance(table: wp.array(dtype=wp.float32, ndim=2), p: int, x: float, y: float):
    """How deep (x, y) lies in the brow: 1 on its middle line, 0 on its border, and along it from 0 to 4."""
    ax = wp.abs(x)
    best = float(-10.0)
    along = float(0.0)
    for i in range(4):
        k = 100 + 3 * i
        px = table[p, k]
        py = table[p, k + 1]
        qx = table[p, k + 3]
        qy = table[p, k + 4]
        dx = qx - px
        dy = qy - py
        t = wp.clamp(((ax - px) * dx + (y - py) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
        ex = ax - px - t * dx
        ey = y - py - t * dy
        half = wp.lerp(table[p, k + 2], table[p, k + 5], t)
        inside = 1.0 - wp.sqrt(ex * ex + ey * ey) / half
        if inside > best:
            best = inside
            along = float(i) + t
    return wp.vec2(best, along)


@wp.func
def sky_light(scene: Scene, q: int, n: wp.vec3):
    up = -n[1]
    if up > 0.0:
        return wp.lerp(scene.sky[q, 1], scene.sky[q, 0], up)
    return wp.lerp(scene.sky[q, 1], scene.sky[q, 2], -up)


@wp.func
def lamps_seen(scene: Scene, q: int, at: wp.vec3, n: wp.vec3, wrap: float, jitter: float):
    """How much of each of the (at most three) lamps a point sees: 1, 0, or a share through a lens."""
    seen = wp.vec3(1.0, 1.0, 1.0)
    for i in range(scene.lamp_count[q]):
        to = wp.vec3(scene.lights[q, i, 0], scene.lights[q, i, 1], scene.lights[q, i, 2])
        if scene.lights[q, i, 7] > 0.5 and wp.dot(n, to) > -wrap:
            a = jitter * 6.2831853
            r = scene.lights[q, i, 6] * wp.sqrt(wp.abs(wp.sin(jitter * 12.9898)))
            side = wp.normalize(wp.cross(to, wp.vec3(0.31, 0.77, 0.55)))
            other = wp.cross(to, side)
            aim = wp.normalize(to + side * (r * wp.cos(a)) + other * (r * wp.sin(a)))
            begin = at + n * 0.0012 + aim * 0.0008
            if scene.lenses[q] < 0.5:
                if wp.mesh_query_ray_anyhit(scene.meshes[q], begin, aim, 1.0):
                    seen[i] = 0.0
            else:
                hit = wp.mesh_query_ray(scene.meshes[q], begin, aim, 1.0)
                if hit.result:
                    seen[i] = wp.where(scene.parts[scene.first_triangle[q] + hit.face] == LENS, 0.7, 0.0)
    return seen


@wp.func
def lamp_light(
    scene: Scene,
    q: int,
    i: int,
    n: wp.vec3,
    view: wp.vec3,
    albedo: wp.vec3,
    gloss: float,
    sharp: float,
    wrap: float,
):
    """What a surface sends to the viewer of one lamp that nothing hides."""
    to = wp.vec3(scene.lights[q, i, 0], scene.lights[q, i, 1], scene.lights[q, i, 2])
    power = wp.vec3(scene.lights[q, i, 3], scene.lights[q, i, 4], scene.lights[q, i, 5])
    facing = wp.dot(n, to)
    result = wp.vec3(0.0)
    if facing > -wrap:
        diffuse = wp.max(0.0, (facing + wrap) / (1.0 + wrap))
        # Light that went through skin is redder.
        soft = wp.max(0.0, (facing + wrap * 2.5) / (1.0 + wrap * 2.5))
        spread = wp.vec3(soft, diffuse, diffuse * 0.97)
        half = wp.normalize(to - view)
        shine = wp.pow(wp.max(0.0, wp.dot(n, half)), sharp) * gloss * (sharp + 8.0) * 0.04
        fresnel = 1.0 + 3.0 * wp.pow(1.0 - wp.max(0.0, wp.dot(n, -view)), 4.0)
        if facing < 0.0:
            shine = 0.0
        result = wp.cw_mul(power, wp.cw_mul(albedo, spread) + wp.vec3(shine * fresnel))
    return result


@wp.func
def skin_colour(scene: Scene, p: int, c: wp.vec3, ear: float, lid: float):
    """Colour (linear) of skin without lips, brows and beard."""
    table = scene.table
    colour = row3(table, p, 0)
    red = wp.vec3(1.0, 0.72, 0.68)
    front = smooth(0.05, 0.0, c[2])
    # What is not there is not looked up: most of the time goes into noise and maps.
    blush = float(0.0)
    if front > 0.0 and table[p, 17] > 0.0:
        blush = fetch(scene.maps, 5, c[0], c[1]) * front
    amount = blush * table[p, 17] + ear * 0.25
    colour = wp.cw_mul(colour, wp.lerp(wp.vec3(1.0), red, wp.clamp(amount, 0.0, 1.0)))
    if scene.detail > 0.5:
        seed = table[p, 28]
        broad = noise3(c * 45.0 + wp.vec3(seed, seed * 2.0, 0.0))
        fine = noise3(c * 420.0 + wp.vec3(seed))
        finest = noise3(c * 1100.0 + wp.vec3(seed))
        colour = colour * (1.0 + table[p, 27] * ((broad - 0.5) * 0.35 + (fine - 0.5) * 0.22 + (finest - 0.5) * 0.16))
        colour = wp.cw_mul(colour, wp.lerp(wp.vec3(1.0), wp.vec3(1.0, 0.93, 0.9), (broad - 0.4) * table[p, 27]))
        if table[p, 15] > 0.01:
            spot = noise3(c * 330.0 + wp.vec3(seed * 3.0, 7.0, seed))
            where = 0.4 + fetch(scene.maps, 5, c[0], c[1])
            hit = smooth(0.80, 0.88, spot + 0.12 * (table[p, 15] * where - 0.5)) * front
            colour = wp.lerp(colour, wp.cw_mul(colour, wp.vec3(0.62, 0.48, 0.38)), hit * 0.8)
        if table[p, 29] > 0.0:
            mole = noise3(c * 110.0 + wp.vec3(seed * 5.0, seed, 3.0))
            colour = wp.lerp(colour, colour * 0.3, smooth(0.955, 0.965, mole) * table[p, 29])
        if front > 0.0:
            if table[p, 16] > 0.0:
                wrinkle = fetch(scene.maps, 6, c[0], c[1]) * front * table[p, 16]
                colour = colour * (1.0 - 0.55 * wrinkle)
            if c[1] > -0.018 and c[1] < 0.041:
                # Farther from the eyes the shade under them is less than a rounding error.
                under = fetch(scene.maps, 8, c[0], c[1]) * front
                colour = wp.cw_mul(colour, wp.lerp(wp.vec3(1.0), wp.vec3(0.42, 0.32, 0.38), under * table[p, 30]))
            if table[p, 23] > 0.0:
                shadow = fetch(scene.maps, 7, c[0], c[1]) * front * table[p, 23]
                colour = wp.lerp(colour, row3(table, p, 24), shadow * 0.7)
    return colour


@wp.func
def beard_at(scene: Scene, p: int, c: wp.vec3):
    table = scene.table
    if c[2] > 0.075 or table[p, 22] == 0.0:
        return 0.0
    whole = fetch(scene.maps, 2, c[0], c[1])
    dense = wp.max(
        whole * table[p, 19],
        wp.max(fetch(scene.maps, 3, c[0], c[1]) * table[p, 20], fetch(scene.maps, 4, c[0], c[1]) * table[p, 21]),
    )
    return dense


@wp.func
def scalp_at(scene: Scene, p: int, c: wp.vec3, ear: float):
    """How far above the hairline a neutral position is, metres."""
    around = wp.atan2(c[0], 0.06 - c[2])
    above = hairline_at(scene.hairline, p, around) - c[1]
    if ear > 0.85:
        above = float(-1.0)
    if c[1] > 0.075:
        above = -1.0
    return above


@wp.func
def neck_border(z: float):
    """Height (y) below which skin is the neck's: under the chin, along the jaw, and up to the ear's lobe."""
    return 0.1195 - 0.95 * wp.max(0.0, z - 0.003) - 1.2 * wp.max(0.0, z - 0.045)


@wp.func
def scarf_at(c: wp.vec3):
    """Positive where a headscarf covers the head: all but an oval of the face."""
    x = c[0] / 0.063
    y = (c[1] - 0.026) / 0.090
    return wp.max(wp.sqrt(x * x + y * y) - 1.0, (c[2] - 0.034) * 20.0)


@wp.func
def cloth(table: wp.array(dtype=wp.float32, ndim=2), p: int, c: wp.vec3):
    """Colour of a hat or a headscarf."""
    colour = row3(table, p, 86) * (0.72 + 0.28 * noise3(c * table[p, 90])) * (0.75 + 0.4 * noise3(c * 30.0))
    if table[p, 89] > 0.5:
        print_ = wp.sin(c[0] * 90.0) * wp.sin((c[1] - c[2]) * 90.0)
        colour = wp.lerp(colour, row3(table, p, 50), smooth(0.2, 0.5, print_))
    return colour


# Of a ray whose first triangle is not known.
UNKNOWN = wp.constant(-2)
# How far rays go, metres.
FARTHEST = wp.constant(20.0)


@wp.func_native(
    """
    const wp::Mesh mesh = wp::mesh_get(id);
    const wp::vec3 a = mesh.points[mesh.indices[3 * face]];
    const wp::vec3 b = mesh.points[mesh.indices[3 * face + 1]];
    const wp::vec3 c = mesh.points[mesh.indices[3 * face + 2]];
    float t, u, v, sign;
    wp::vec3 normal;
    if (wp::max_dim(ray) == 2) {
        // As most rays: the compiler need not look up axes then, which takes half of the time.
        wp::vec3 along;
        if (!wp::intersect_ray_tri_woop(wp::vec3(), ray, a, b, c, t, u, v, sign, &along))
            return wp::vec4(-1.0f, 0.0f, 0.0f, 0.0f);
        normal = along;
    } else if (!wp::intersect_ray_tri_woop(wp::vec3(), ray, a, b, c, t, u, v, sign, &normal)) {
        return wp::vec4(-1.0f, 0.0f, 0.0f, 0.0f);
    }
    return wp::vec4(t, u, v, wp::dot(wp::normalize(normal), ray));
    """
)
def meet(id: wp.uint64, face: int, ray: wp.vec3) -> wp.vec4:
    """
    Where a ray from the camera meets a triangle, to the last bit as `wp.mesh_query_ray` has it: distance (negative if
    nowhere), two weights of the corners, and the cosine to the triangle's normal.
    """
    ...


@wp.func
def trace(scene: Scene, q: int, ray: wp.vec3, jitter: float, labels: int, known_lamps: wp.vec3, known_face: int):
    """
    What one ray from the camera of picture `q` sees. With `labels` it goes on behind glasses until both label sets are
    known, and with 1 (not 2) it looks for the lamps; without, the lamps that are known will do. `known_face` is the
    first triangle that it meets (-1: none), or `UNKNOWN`.
    """
    seen = Seen()
    seen.colour = wp.vec3(0.0)
    seen.alpha = 0.0
    seen.part = -1
    seen.person = -1
    seen.lapa = 0
    seen.celebamask_hq = 0
    seen.depth = 1.0e6  # with fast arithmetic there is no infinity
    table = scene.table
    through = wp.vec3(1.0)
    lamps = wp.vec3(known_lamps[0], known_lamps[1], known_lamps[2])
    have_colour = int(0)
    have_lapa = int(0)
    have_celeb = int(0)
    start = float(0.0)
    for step in range(12):
        if have_colour * have_lapa * have_celeb == 1 or start < 0.0:
            break
        else:
            face = int(-1)
            met = wp.vec4(0.0)
            if step > 0 or known_face == UNKNOWN:
                hit = wp.mesh_query_ray(scene.meshes[q], ray * start, ray, FARTHEST)
                if hit.result:
                    face = hit.face
                    met = wp.vec4(hit.t, hit.u, hit.v, wp.dot(hit.normal, ray))
            elif known_face >= 0:
                face = known_face
                met = meet(scene.meshes[q], face, ray)
            if face < 0:
                start = -1.0
            else:
                f = scene.first_triangle[q] + face
                t = start + met[0]
                start = t + 0.0002
                u = met[1]
                v = met[2]
                w = 1.0 - u - v
                ia = scene.triangles[f, 0]
                ib = scene.triangles[f, 1]
                ic = scene.triangles[f, 2]
                at = ray * t
                n = wp.normalize(scene.normals[ia] * u + scene.normals[ib] * v + scene.normals[ic] * w)
                if wp.dot(n, ray) > 0.0 and met[3] > 0.0:
                    n = -n
                c = scene.neutral[ia] * u + scene.neutral[ib] * v + scene.neutral[ic] * w
                tr = scene.traits[ia] * u + scene.traits[ib] * v + scene.traits[ic] * w
                part = scene.parts[f]
                p = scene.people[f]
                solid = int(1)
                lapa = int(0)
                celeb = int(0)
                albedo = wp.vec3(0.5)
                gloss = float(0.15)
                sharp = float(18.0)
                wrap = float(0.0)
                open_sky = tr[2]

                if part == HAIR:
                    # c is (around, along from root 0 to tip 1, layer).
                    seed = int(table[p, 28] * 97.0) + int(c[2] * 13.0)
                    curl = table[p, 40]
                    across = c[0] * 30.0 + curl * (noise2(c[0] * 12.0, c[1] * 14.0, seed + 5) - 0.5) * 6.0
                    strand = noise2(across * 3.0, c[1] * (3.0 + 12.0 * curl), seed)
                    lock = noise2(across * 0.6, c[1] * (1.5 + 6.0 * curl), seed + 1)
                    edge = 1.0 - c[1]
                    dense = edge * 7.0 + 0.3
                    root = c[1] * 30.0 + 0.35
                    if wp.min(dense, root) < 0.25 + 0.75 * strand * 0.8 + 0.35 * lock * scene.strands - 0.1:
                        solid = 0
                    albedo = row3(table, p, 6)
                    if scene.strands > 0.5:
                        albedo = albedo * (0.45 + 0.55 * strand + 0.5 * lock)
                        n = wp.normalize(n + wp.vec3((strand - 0.5) * 0.5, (lock - 0.5) * 0.3, (lock - 0.5) * 0.4))
                    gloss = table[p, 41]
                    sharp = 25.0
                    wrap = 0.25
                    lapa = 10
                    celeb = 14
                elif part == LENS:
                    solid = 0
                    if have_colour == 0:
                        glint = float(0.0)
                        shine = wp.vec3(0.0)
                        for i in range(scene.lamp_count[q]):
                            shine += lamp_light(scene, q, i, n, ray, wp.vec3(0.0), 0.8, 90.0, 0.0)
                        mirror = ray - n * (2.0 * wp.dot(ray, n))
                        facing = wp.pow(1.0 - wp.abs(wp.dot(n, ray)), 3.0) * 0.5 + table[p, 46]
                        back = wp.cw_mul(sky_light(scene, q, mirror), wp.vec3(facing)) + shine * 0.35
                        tint = row3(table, p, 42)
                        opaque = table[p, 45]
                        seen.colour += wp.cw_mul(through, back + tint * (opaque * glint))
                        through = wp.cw_mul(through, wp.lerp(wp.vec3(1.0), tint, opaque))
                    if have_celeb == 0:
                        seen.celebamask_hq = 15
                        have_celeb = 1
                        seen.part = LENS
                        seen.person = p
                elif part == SKIN or part == SOCKET:
                    lid = tr[3]
                    ear = tr[1]
                    c2 = c
                    albedo = skin_colour(scene, p, c2, ear, lid)
                    gloss = table[p, 18]
                    wrap = 0.18
                    lapa = 1
                    celeb = 2
                    above = -1.0
                    if part == SOCKET:
                        albedo = wp.cw_mul(albedo, wp.vec3(1.0, 0.55, 0.5))
                        open_sky = open_sky * 0.6
                        lapa = 4
                        celeb = 6
                        lapa = wp.where(c[0] < 0.0, 4, 5)
                        celeb = wp.where(c[0] < 0.0, 8, 9)
                    else:
                        above = scalp_at(scene, p, c, ear)
                        if ear > 0.85:
                            celeb = wp.where(c[0] < 0.0, 4, 5)
                        elif c[1] > neck_border(c[2]) and c[1] > 0.04:
                            celeb = 1
                            lapa = 0
                        if c[2] < 0.04:
                            # Both are positive outside of these boxes.
                            lip = float(1.0)
                            if wp.abs(c[0]) < 0.028 and c[1] > 0.059 and c[1] < 0.085:
                                lip = fetch(scene.maps, 0, c[0], c[1])
                            nose = float(1.0)
                            if wp.abs(c[0]) < 0.021 and c[1] > -0.009 and c[1] < 0.052:
                                nose = fetch(scene.maps, 1, c[0], c[1])
                            if nose < 0.0:
                                lapa = 6
                                celeb = 10
                            if lip < 0.0006:
                                soft = smooth(0.0006, -0.0012, lip)
                                tint = row3(table, p, 3)
                                if scene.detail > 0.5:
                                    tint = tint * (0.9 + 0.2 * noise3(wp.vec3(c[0] * 900.0, c[1] * 150.0, 1.0)))
                                albedo = wp.lerp(albedo, tint, soft)
                                gloss = gloss + 0.25 * soft + table[p, 31] * soft
                                if lip < 0.0:
                                    if tr[0] > table[p, 32]:
                                        lapa = 9
                                        celeb = 12
                                    else:
                                        lapa = 7
                                        celeb = 13
                                    # What curls inwards behind the lips' contact counts as the mouth's inside.
                                    if c[2] > fetch(scene.maps, 9, c[0], c[1]):
                                        lapa = 8
                                        celeb = 11
                                        albedo = wp.cw_mul(albedo, wp.vec3(0.8, 0.6, 0.6))
                            brow = wp.vec2(-10.0, 0.0)
                            if c[1] < -0.004 and c[1] > -0.075:
                                brow = brow_distance(table, p, c[0], c[1])
                            if brow[0] > -0.4:
                                cover = smooth(-0.25, 0.45, brow[0])
                                if scene.strands > 0.5:
                                    lean = c[1] * 1000.0 + wp.abs(c[0]) * 1000.0 * (0.35 - 0.25 * brow[1])
                                    hairs = noise2(
                                        wp.abs(c[0]) * 1700.0 + c[1] * 700.0, lean * 0.22, 3 + int(table[p, 28] * 10.0)
                                    )
                                    cover = smooth(0.75, 0.25, hairs - 0.8 * (cover - 0.5)) * wp.min(1.0, cover * 2.2)
                                albedo = wp.lerp(albedo, row3(table, p, 9), cover * table[p, 75])
                                if brow[0] > 0.0:
                                    lapa = wp.where(c[0] < 0.0, 2, 3)
                                    celeb = wp.where(c[0] < 0.0, 6, 7)
                        if lid > 0.01 and c[2] < 0.03:
                            line = smooth(0.3, 0.85, lid)
                            albedo = albedo * (1.0 - table[p, 71] * line)
                        dense = beard_at(scene, p, c)
                        if dense > 0.01 and ear < 0.3:
                            hairs = noise3(wp.vec3(c[0] * 1400.0, c[1] * 420.0, c[2] * 1400.0))
                            blot = noise3(c * 160.0)
                            cover = dense * table[p, 22]
                            if scene.strands > 0.5:
                                cover = wp.clamp(dense * table[p, 22] * (0.55 + 0.9 * hairs * (0.6 + blot)), 0.0, 0.97)
                            shade = row3(table, p, 76) * (0.5 + 0.8 * hairs)
                            albedo = wp.lerp(albedo, shade, cover)
                            gloss = gloss * (1.0 - cover)
                    scarf = int(0)
                    if table[p, 36] > 0.5:
                        if celeb == 1 or scarf_at(c) > 0.0:
                            scarf = 1
                    if scarf == 1:
                        albedo = cloth(table, p, c)
                        gloss = 0.03
                        wrap = 0.0
                        lapa = 0
                        celeb = 16
                    elif above > -0.006 and table[p, 33] > 0.01 and celeb != 6 and celeb != 7:
                        hairs = noise3(wp.vec3(c[0] * 900.0, c[1] * 900.0, c[2] * 900.0))
                        soft = smooth(-0.004, 0.006, above + (hairs - 0.5) * 0.008 * scene.strands) * table[p, 33]
                        shade = row3(table, p, 6) * (0.35 + 0.6 * hairs)
                        albedo = wp.lerp(albedo, shade, soft)
                        if soft > 0.42:
                            lapa = 10
                            celeb = 14
                            gloss = 0.05
                elif part == BODY:
                    low = c[1] - table[p, 38] - table[p, 39] * wp.abs(c[0]) + table[p, 37] * wp.abs(c[0]) * wp.abs(c[0])
                    low = low - wp.max(0.0, c[2] - 0.02) * (-0.25)
                    lapa = 0
                    if low > 0.0:
                        celeb = 3
                        albedo = row3(table, p, 47)
                        stripe = noise3(wp.vec3(c[0] * 3.0, c[1] * 3.0, c[2] * 3.0))
                        kind = table[p, 53]
                        if kind > 0.5:
                            if kind < 1.5:
                                stripe = wp.sin(c[1] * table[p, 54])
                            elif kind < 2.5:
                                stripe = wp.sin(c[0] * table[p, 54])
                            elif kind < 3.5:
                                stripe = wp.sin(c[0] * table[p, 54]) * wp.sin((c[1] + c[2]) * table[p, 54]) * 2.0
                            else:
                                stripe = (noise3(c * table[p, 54] * 0.2) - 0.5) * 6.0
                            albedo = wp.lerp(albedo, row3(table, p, 50), smooth(-0.1, 0.1, stripe))
                        weave = noise3(c * 700.0)
                        fold = noise3(wp.vec3(c[0] * 25.0, c[1] * 12.0, c[2] * 25.0))
                        albedo = albedo * (0.75 + 0.25 * weave) * (0.7 + 0.5 * fold)
                        open_sky = open_sky * smooth(-0.004, 0.01, low) + 0.2
                        gloss = 0.02
                    elif table[p, 36] > 0.5:
                        celeb = 16
                        albedo = cloth(table, p, c)
                        gloss = 0.03
                    else:
                        celeb = 1
                        albedo = skin_colour(scene, p, c, 0.0, 0.0)
                        wrap = 0.18
                        gloss = table[p, 18]
                elif part == EYE:
                    lapa = wp.where(c[0] < 0.0, 4, 5)
                    celeb = wp.where(c[0] < 0.0, 8, 9)
                    side = wp.where(c[0] < 0.0, -1.0, 1.0)
                    d = wp.vec3(c[0] - side * table[p, 55], c[1] - table[p, 56], c[2] - table[p, 57])
                    d = wp.normalize(d)
                    angle = wp.acos(wp.clamp(-d[2], -1.0, 1.0))
                    white = wp.vec3(0.58, 0.54, 0.52) * table[p, 58]
                    vein = noise3(wp.vec3(d[0] * 25.0, d[1] * 40.0, 2.0))
                    white = wp.cw_mul(
                        white, wp.lerp(wp.vec3(1.0), wp.vec3(1.0, 0.8, 0.78), vein * smooth(0.4, 1.0, angle))
                    )
                    iris = row3(table, p, 12)
                    turn = wp.atan2(d[1], d[0])
                    ray_noise = noise2(turn * 9.0, angle * 12.0, 11)
                    iris = iris * (0.6 + 0.9 * ray_noise)
                    rim = table[p, 72]
                    iris = iris * (1.0 - 0.7 * smooth(rim * 0.75, rim, angle))
                    iris = wp.lerp(wp.vec3(0.006), iris, smooth(table[p, 73], table[p, 73] + 0.04, angle))
                    albedo = wp.lerp(iris, white, smooth(rim - 0.02, rim + 0.03, angle))
                    gloss = 0.3
                    sharp = 600.0
                    wrap = 0.12
                    # The upper lid shades the ball.
                    open_sky = open_sky * 0.85
                elif part == CAVITY:
                    albedo = wp.vec3(0.16, 0.03, 0.03) * (0.4 + 0.6 * smooth(0.02, -0.02, c[2]))
                    lapa = 8
                    celeb = 11
                    gloss = 0.1
                    open_sky = open_sky * 0.3 * smooth(0.03, -0.015, c[2])
                elif part == TONGUE:
                    albedo = wp.vec3(0.45, 0.14, 0.13) * (0.7 + 0.5 * noise3(c * 700.0))
                    lapa = 8
                    celeb = 11
                    gloss = 0.3
                elif part == TEETH:
                    # c is (tooth number, height 0 at the gum to 1, upper or lower).
                    gap = wp.abs(c[0] - wp.floor(c[0]) - 0.5) * 2.0
                    albedo = wp.cw_mul(wp.vec3(0.82, 0.78, 0.70), row3(table, p, 80)) * (
                        1.0 - 0.5 * smooth(0.82, 1.0, gap)
                    )
                    if c[1] < 0.12:
                        albedo = wp.vec3(0.5, 0.2, 0.19)
                    lapa = 8
                    celeb = 11
                    gloss = 0.4
                    sharp = 60.0
                elif part == FRAME:
                    albedo = row3(table, p, 83)
                    gloss = 0.5
                    sharp = 50.0
                    celeb = 15
                elif part == HAT:
                    albedo = cloth(table, p, c)
                    gloss = 0.03
                    celeb = 16
                elif part == EARRING or part == NECKLACE:
                    albedo = row3(table, p, 91)
                    gloss = 0.8
                    sharp = 40.0
                    celeb = wp.where(part == EARRING, 17, 18)
                elif part == HAND:
                    albedo = row3(table, p, 0) * (0.85 + 0.3 * noise3(c * 300.0))
                    wrap = 0.18
                    gloss = 0.12
                elif part == THING:
                    albedo = row3(table, p, 94) * (0.6 + 0.5 * noise3(c * table[p, 97]))
                    gloss = 0.15
                elif part == LASH:
                    hairs = noise2(c[0] * table[p, 74], 0.0, 5)
                    if hairs < 0.25 + 0.55 * c[1]:
                        solid = 0
                    albedo = wp.vec3(0.015, 0.012, 0.01)
                    gloss = 0.0
                    lapa = -1

                if solid == 1:
                    if have_colour == 0:
                        if labels == 1:
                            lamps = lamps_seen(scene, q, at, n, wrap, jitter)
                        elif labels == 2:
                            lamps = wp.vec3(-1.0)
                        seen.colour += wp.cw_mul(through, wp.cw_mul(albedo, sky_light(scene, q, n)) * open_sky)
                        for i in range(scene.lamp_count[q]):
                            light = wp.cw_mul(through, lamp_light(scene, q, i, n, ray, albedo, gloss, sharp, wrap))
                            if labels == 0:
                                seen.colour += light * lamps[i]
                            elif i == 0:
                                seen.first_lamp = light
                            elif i == 1:
                                seen.second_lamp = light
                            else:
                                seen.third_lamp = light
                        seen.alpha = 1.0
                        seen.depth = t * ray[2]
                        seen.normal = n
                        if seen.part < 0:
                            seen.part = part
                            seen.person = p
                        have_colour = 1
                        if labels == 0:
                            have_lapa = 1
                            have_celeb = 1
                    if part != LASH:
                        if have_celeb == 0:
                            seen.celebamask_hq = celeb
                            have_celeb = 1
                        if have_lapa == 0 and part != FRAME and part != EARRING and part != NECKLACE:
                            seen.lapa = lapa
                            have_lapa = 1
    seen.lamps = lamps
    if have_colour == 0:
        # Only lenses: the background shines through.
        seen.alpha = 1.0 - (through[0] + through[1] + through[2]) / 3.0
    return seen


@wp.func
def ray_of(camera: wp.vec4, x: float, y: float):
    return wp.normalize(wp.vec3((x - camera[1]) / camera[0], (y - camera[2]) / camera[0], 1.0))


@wp.func
def beside(k: int):
    """Where the finer rays of a pixel go, from its middle, on either side of the first ray."""
    return wp.where(k == 0, wp.vec2(-0.32, -0.18), wp.vec2(0.32, 0.18))


@wp.kernel
def project(scene: Scene, cameras: wp.array(dtype=wp.vec4), q: int, first: int, projected: wp.array(dtype=wp.vec3)):
    """Where picture `q` shows each vertex of its mesh (x, y), and one over its depth: 0 where that is below 1 cm."""
    i = wp.tid()
    camera = cameras[q]
    at = wp.mesh_get(scene.meshes[q]).points[i]
    seen = wp.vec3(0.0)
    if at[2] > 0.01:
        seen = wp.vec3(at[0] / at[2] * camera[0] + camera[1], at[1] / at[2] * camera[0] + camera[2], 1.0 / at[2])
    projected[first + i] = seen


@wp.func
def edge_of(a: wp.vec3, b: wp.vec3, turn: float, wide: wp.vec2):
    """
    The edge from `a` to `b` of a triangle, wider by (x, y): slope, lean, start; slope * (x - lean * y - start) is not
    negative inside. The slope is 0 where it bounds no x.
    """
    slope = (a[1] - b[1]) * turn
    rise = (b[0] - a[0]) * turn
    result = wp.vec3(0.0)
    if slope != 0.0:
        value = wide[0] * wp.abs(slope) + wide[1] * wp.abs(rise) - slope * a[0] - rise * a[1]
        result = wp.vec3(slope, -rise / slope, -value / slope)
    return result


@wp.func
def span(row: wp.vec2, edge: wp.vec3, y: float):
    """What is inside of an edge of a range of x."""
    x = edge[1] * y + edge[2]
    return wp.vec2(
        wp.where(edge[0] > 0.0, wp.max(row[0], x), row[0]), wp.where(edge[0] < 0.0, wp.min(row[1], x), row[1])
    )


@wp.kernel
def find_triangles(
    scene: Scene,
    cameras: wp.array(dtype=wp.vec4),
    size: int,
    q: int,
    projected: wp.array(dtype=wp.vec3),
    first: int,
    distance: wp.array(dtype=wp.float32, ndim=2),
    reach: wp.array(dtype=wp.float32, ndim=2),
    face: wp.array(dtype=wp.int32, ndim=2),
):
    """
    The first triangle that each ray of `cast_rays` meets, by going over the triangles of picture `q` in place of the
    tree: three times as fast. `distance` is along the ray, `reach` along the camera's axis, and 0 where no ray goes.
    Threads write to the same pixels, so it is for the CPU, which runs them one after the other.
    """
    i = wp.tid()
    mesh = scene.meshes[q]
    camera = cameras[q]
    f = scene.first_triangle[q] + i
    a = projected[scene.triangles[f, 0]]
    b = projected[scene.triangles[f, 1]]
    c = projected[scene.triangles[f, 2]]
    before = wp.min(a[2], wp.min(b[2], c[2])) > 0.0
    if not before:
        za = wp.mesh_get_point(mesh, 3 * i)[2]
        if wp.max(za, wp.max(wp.mesh_get_point(mesh, 3 * i + 1)[2], wp.mesh_get_point(mesh, 3 * i + 2)[2])) <= 0.0:
            return
    rays = wp.where(first == 1, 1, 2)
    # Wide enough for all rays of a pixel, and for all that rounding does.
    wide = wp.vec2(0.02, 0.02)
    if first == 0:
        wide += beside(1)
    left = float(0.0)
    top = float(0.0)
    right = float(size - 1)
    bottom = float(size - 1)
    ab = wp.vec3(0.0)
    bc = wp.vec3(0.0)
    ca = wp.vec3(0.0)
    # One over the depth, which is linear in the picture, too; of slivers it is that of the nearest corner.
    near_x = float(0.0)
    near_y = float(0.0)
    near = float(1.0e9)
    if before:
        left = wp.max(left, wp.min(a[0], wp.min(b[0], c[0])) - wide[0])
        top = wp.max(top, wp.min(a[1], wp.min(b[1], c[1])) - wide[1])
        right = wp.min(right, wp.max(a[0], wp.max(b[0], c[0])) + wide[0])
        bottom = wp.min(bottom, wp.max(a[1], wp.max(b[1], c[1])) + wide[1])
        if wp.ceil(left) > right or wp.ceil(top) > bottom:
            return
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        turn = wp.where(area < 0.0, -1.0, 1.0)
        ab = edge_of(a, b, turn, wide)
        bc = edge_of(b, c, turn, wide)
        ca = edge_of(c, a, turn, wide)
        near = wp.max(a[2], wp.max(b[2], c[2]))
        if area * turn > 0.1:
            nb = b[2] - a[2]
            nc = c[2] - a[2]
            near_x = (nb * (c[1] - a[1]) - nc * (b[1] - a[1])) / area
            near_y = (nc * (b[0] - a[0]) - nb * (c[0] - a[0])) / area
            near = a[2] - near_x * a[0] - near_y * a[1]
    for y in range(int(wp.ceil(top)), int(wp.floor(bottom)) + 1):
        py = float(y)
        # Not a loop: it would index the vectors in memory.
        row = span(wp.vec2(left, right), ab, py)
        row = span(row, bc, py)
        row = span(row, ca, py)
        if row[0] > row[1]:
            continue
        for x in range(int(wp.ceil(row[0])), int(wp.floor(row[1])) + 1):
            pixel = (q * size + y) * size + x
            for k in range(rays):
                at = wp.vec2(float(x), py)
                if first == 0:
                    at += beside(k)
                # A thousandth of the depth is a hundred times what rounding does to it.
                if (near + near_x * at[0] + near_y * at[1]) * reach[pixel, k] >= 0.999:
                    ray = ray_of(camera, at[0], at[1])
                    met = meet(mesh, i, ray)
                    if met[0] >= 0.0 and met[0] < distance[pixel, k]:
                        distance[pixel, k] = met[0]
                        reach[pixel, k] = met[0] * ray[2]
                        face[pixel, k] = i
                    elif met[0] == distance[pixel, k]:
                        # Of two in the same place the tree may choose.
                        face[pixel, k] = UNKNOWN


@wp.kernel
def find_edges(
    size: int,
    nothing: int,
    part: wp.array(dtype=wp.int32),
    colour: wp.array(dtype=wp.vec4),
    distance: wp.array(dtype=wp.float32, ndim=2),
    reach: wp.array(dtype=wp.float32, ndim=2),
    face: wp.array(dtype=wp.int32, ndim=2),
):
    """Pixels that differ from a neighbour: two more rays will go there, of which `nothing` is known as yet."""
    i = wp.tid()
    base = i // (size * size) * size * size
    x = (i - base) % size
    y = (i - base) // size
    mine = colour[i]
    differs = int(0)
    for k in range(4):
        dx = wp.where(k == 0, -1, wp.where(k == 1, 1, 0))
        dy = wp.where(k == 2, -1, wp.where(k == 3, 1, 0))
        j = base + wp.clamp(y + dy, 0, size - 1) * size + wp.clamp(x + dx, 0, size - 1)
        if part[j] != part[i]:
            differs += 1
        else:
            other = colour[j]
            contrast = wp.abs(other[0] - mine[0]) + wp.abs(other[1] - mine[1]) + wp.abs(other[2] - mine[2])
            if contrast > 0.4 * (mine[0] + mine[1] + mine[2]) + 0.06:
                differs += 1
    for k in range(2):
        distance[i, k] = FARTHEST
        reach[i, k] = wp.where(differs > 0, FARTHEST, 0.0)
        face[i, k] = nothing


@wp.kernel
def cast_rays(
    scene: Scene,
    cameras: wp.array(dtype=wp.vec4),  # focal length, middle x and y (all pixels), seed of the jitter
    size: int,
    first: int,
    reach: wp.array(dtype=wp.float32, ndim=2),
    face: wp.array(dtype=wp.int32, ndim=2),
    colour: wp.array(dtype=wp.vec4),
    part: wp.array(dtype=wp.int32),
    lapa: wp.array(dtype=wp.uint8),
    celebamask_hq: wp.array(dtype=wp.uint8),
    depth: wp.array(dtype=wp.float32),
    normal: wp.array(dtype=wp.vec3),
    lamps: wp.array(dtype=wp.vec3),
    by_lamp: wp.array(dtype=wp.vec3, ndim=2),
    finer: wp.array(dtype=wp.vec4),
):
    """
    With `first`, one ray through the middle of each pixel of each picture, of which every fourth one looks for the
    lamps; else two more through the pixels that `find_edges` found. `face` is what each meets (see `trace`). One kernel
    for both, as its compilation takes most of a minute.
    """
    i = wp.tid()
    mine = colour[i]
    if first == 0 and reach[i, 0] == 0.0:
        finer[i] = mine
        return
    if first == 1 and face[i, 0] == -1:
        # Nothing but background.
        colour[i] = wp.vec4(0.0)
        part[i] = 15
        lapa[i] = wp.uint8(0)
        celebamask_hq[i] = wp.uint8(0)
        depth[i] = 1.0e6
        normal[i] = wp.vec3(0.0)
        lamps[i] = wp.vec3(-1.0)
        return
    q = i // (size * size)
    base = q * size * size
    x = (i - base) % size
    y = (i - base) // size
    camera = cameras[q]
    rays = wp.where(first == 1, 1, 2)
    total = wp.vec4(0.0)
    if first == 0:
        total = mine / 3.0
    for k in range(rays):
        at = wp.vec2(float(x), float(y))
        if first == 0:
            at += beside(k)
        ray = ray_of(camera, at[0], at[1])
        look = wp.where(first == 0, 0, wp.where(x % 2 + y % 2 == 0, 1, 2))
        # Nine pixels around that look for the lamps aim at nine parts of each.
        stratum = float((x // 2) % 3 + 3 * ((y // 2) % 3))
        jitter = (stratum + hash1(x, y, int(camera[3]))) / 9.0
        seen = trace(scene, q, ray, jitter, look, lamps[i], face[i, k])
        weight = wp.where(first == 1, 1.0, 1.0 / 3.0)
        total += wp.vec4(seen.colour[0], seen.colour[1], seen.colour[2], seen.alpha) * weight
        if first == 1:
            # The part in the lowest four bits (15 on the background), then the label, then the person.
            part[i] = wp.where(seen.part < 0, 15, seen.part) + 16 * seen.celebamask_hq + 1024 * (seen.person + 1)
            lapa[i] = wp.uint8(seen.lapa)
            celebamask_hq[i] = wp.uint8(seen.celebamask_hq)
            depth[i] = seen.depth
            normal[i] = seen.normal
            # Where nothing solid is, nothing looked for the lamps.
            lamps[i] = wp.where(seen.alpha > 0.0, seen.lamps, wp.vec3(-1.0))
            by_lamp[i, 0] = seen.first_lamp
            by_lamp[i, 1] = seen.second_lamp
            by_lamp[i, 2] = seen.third_lamp
    if first == 1:
        colour[i] = total
    else:
        finer[i] = total


@wp.kernel
def add_lamps(
    size: int,
    part: wp.array(dtype=wp.int32),
    depth: wp.array(dtype=wp.float32),
    lamps: wp.array(dtype=wp.vec3),
    by_lamp: wp.array(dtype=wp.vec3, ndim=2),
    colour: wp.array(dtype=wp.vec4),
    smooth_lamps: wp.array(dtype=wp.vec3),
):
    """
    Adds the lamps' light, each by how much of it the pixels around see that looked for it: a quarter of a shadow ray
    each, and yet smooth. Next to an outline the background takes the share of what is beside it, for the rays that meet
    it.
    """
    i = wp.tid()
    base = i // (size * size) * size * size
    x = (i - base) % size
    y = (i - base) // size
    covered = colour[i][3] > 0.0
    if not covered:
        mine = part[i]
        beside = base + y * size
        same = part[beside + wp.max(x - 1, 0)] == mine and part[beside + wp.min(x + 1, size - 1)] == mine
        above = part[base + wp.max(y - 1, 0) * size + x] == mine
        if same and above and part[base + wp.min(y + 1, size - 1) * size + x] == mine:
            # No more rays will go here.
            return
    total = wp.vec3(0.0)
    count = float(0.0)
    # The pixels around that looked are those of even coordinates; each of the nine parts of a lamp has the same weight.
    own_part = part[i] & 15
    own_depth = depth[i]
    for row in range(3 + y % 2):
        ny = y - 2 - y % 2 + 2 * row
        if ny >= 0 and ny < size:
            weight_y = wp.min(1.0, 2.0 - 0.5 * float(wp.abs(ny - y)))
            for column in range(3 + x % 2):
                nx = x - 2 - x % 2 + 2 * column
                if nx >= 0 and nx < size:
                    j = base + ny * size + nx
                    looked = lamps[j]
                    if looked[0] >= 0.0:
                        near = (part[j] & 15) == own_part and wp.abs(depth[j] - own_depth) < 0.01
                        if near or not covered:
                            weight = wp.min(1.0, 2.0 - 0.5 * float(wp.abs(nx - x))) * weight_y
                            total += looked * weight
                            count += weight
    share = wp.vec3(1.0)
    if count > 0.0:
        share = total / count
    smooth_lamps[i] = share
    if covered:
        light = by_lamp[i, 0] * share[0] + by_lamp[i, 1] * share[1] + by_lamp[i, 2] * share[2]
        colour[i] = colour[i] + wp.vec4(light[0], light[1], light[2], 0.0)


@wp.kernel
def openness(
    mesh: wp.uint64,
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    count: int,
    reach: float,
    result: wp.array(dtype=wp.float32),
):
    """Share of rays from a vertex that meet nothing within `reach` metres."""
    i = wp.tid()
    n = normals[i]
    if n[2] > 0.35:
        # Turned away from the camera.
        result[i] = 1.0
        return
    side = wp.normalize(wp.cross(n, wp.vec3(0.31, 0.77, 0.55)))
    other = wp.cross(n, side)
    free = float(0.0)
    for k in range(count):
        # Cosine-weighted, the same spiral for each vertex.
        r = wp.sqrt((float(k) + 0.5) / float(count))
        a = 2.399963 * float(k) + 0.5
        up = wp.sqrt(wp.max(0.0, 1.0 - r * r))
        d = side * (r * wp.cos(a)) + other * (r * wp.sin(a)) + n * up
        hit = wp.mesh_query_ray(mesh, points[i] + n * 0.0015, d, reach)
        if hit.result:
            free += wp.min(0.7, hit.t / reach)
        else:
            free += 1.0
    result[i] = free / float(count)
