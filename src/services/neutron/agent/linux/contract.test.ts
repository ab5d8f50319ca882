import { netContract } from '../driver.contract.ts'
import { testHost } from './world.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root'

netContract(
  'linux',
  async t => {
    const host = await testHost(t, 'ct', {
      overlayAddress: '10.99.0.1',
      physicalNetworks: { public: { kind: 'own', bridge: 'br-ex' } },
    })
    return {
      driver: host.driver,
      async guest(port, network, listens = []) {
        const guest = await host.guest(port, network)
        for (const number of listens) await guest.listens(number)
        return guest
      },
    }
  },
  skip,
)
