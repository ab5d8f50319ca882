import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Hashing, passwordHash, passwordVerify } from './passwords.ts'

const quick: Hashing = { algorithm: 'scrypt', rounds: 4 }

// Made by passlib 1.7.4 and bcrypt 3.2.2 from 'pässword'.
const FOREIGN = [
  '$scrypt$ln=8,r=8,p=1$rnVOyfnfe6+VUirFeI+xtg$bv/XqNOl6B857C/Ww/lnpHX/lXddOmFBeFf34+SKO2M',
  '$pbkdf2-sha512$10$uxfCeK91jpFyTmlNqRUiZA$EiAh1iLKVnr.IFAw1LWISlqceN8.tomyh2LnwrrigywSZk6d.5OMh3z1azcU82N6v2stcbA.hStWR1Z/9absZw',
  '$2b$04$yEaS3lMMk3V.92UGYT5xK.O1WG2Qzi1sbuK9JIbuNyOlclRpRa.b2',
  '$bcrypt-sha256$v=2,t=2b,r=4$04oPdYYAa/9VTljIytKJaO$IO5mJHkeJIdXISj.RQaAksMIGCt.x3K',
]

for (const stored of FOREIGN) {
  test(`reads ${stored.slice(0, 16)}`, async () => {
    assert.equal(await passwordVerify('pässword', stored, quick), true)
    assert.equal(await passwordVerify('password', stored, quick), false)
  })
}

for (const how of [
  quick,
  { algorithm: 'bcrypt', rounds: 4 },
  { algorithm: 'bcrypt_sha256', rounds: 4 },
  { algorithm: 'pbkdf2_sha512', rounds: 10 },
  { algorithm: 'argon2id', rounds: 1 },
] satisfies Hashing[]) {
  test(`writes ${how.algorithm}`, async () => {
    const stored = await passwordHash('s3cret', how)
    assert.equal(await passwordVerify('s3cret', stored, how), true)
    assert.equal(await passwordVerify('s3crets', stored, how), false)
  })
}

test('an unknown user costs as much as a wrong password, and is never right', async () => {
  const how: Hashing = { algorithm: 'scrypt', rounds: 13 }
  const stored = await passwordHash('right', how)
  await passwordVerify('x', null, how)
  const time = async (hash: string | null) => {
    const start = process.cpuUsage().user
    for (let i = 0; i < 8; i++) assert.equal(await passwordVerify('wrong', hash, how), false)
    return process.cpuUsage().user - start
  }
  const ratio = (await time(stored)) / (await time(null))
  assert.ok(ratio > 0.5 && ratio < 2, `ratio ${ratio}`)
})

test('an unknown kind of hash is an error, not a wrong password', async () => {
  await assert.rejects(passwordVerify('x', '$9$x$y', quick), /unknown kind/)
})
